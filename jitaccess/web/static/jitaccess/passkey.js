// allauth tells of a passkey that was not given (cancelled, timed out, of another site) by an event; people want words.
document.addEventListener("allauth.error", (event) => {
  event.preventDefault();
  const note = document.getElementById("passkey-failed");
  if (note) note.hidden = false;
});

// A button that is pressed before allauth listens would send the form without a passkey. Its listener was added before
// this one, so that buttons can be pressed from here on, if its scripts have come.
document.addEventListener("DOMContentLoaded", () => {
  if (!window.webauthnJSON || !window.allauth?.webauthn) return;
  for (const button of document.querySelectorAll("[data-passkey]")) button.disabled = false;
});
