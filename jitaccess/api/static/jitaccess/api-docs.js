// Swagger UI on our own terms: nothing inline, nothing from elsewhere, the CSRF token on what changes something.
const main = document.getElementById("api");
const csrf = () => (document.cookie.match(/(?:^|; )csrftoken=([^;]+)/) || [])[1] || "";
SwaggerUIBundle({
  url: main.dataset.openapi,
  domNode: main,
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    if (request.method !== "GET" && csrf()) request.headers["X-CSRFToken"] = csrf();
    return request;
  },
});
