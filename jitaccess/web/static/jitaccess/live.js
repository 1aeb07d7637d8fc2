// Live pages. A region names what it shows, data-live="inbox request:<id>", and how it is fetched anew, hx-get and
// hx-trigger="live". One stream tells the page which topics something happened to; each region that shows one of them
// is fetched, unless somebody is at work in it. Without a stream everything is fetched now and then.
(() => {
  "use strict";

  const POLL = 30000; // milliseconds between looks without a stream
  const SELDOM = 300000; // and with one: what changes by the clock alone is not told
  const AWAY = 3000; // hidden for so long, a page gives its connection to others: HTTP/1.1 has six of them
  const JITTER = 500; // not everybody fetches in the same instant
  const YOUNG = 8000; // a page that listens within so long misses nothing: the server looks back ten seconds

  let source = null;
  let listening = "";
  let pause = 5000;
  let missed = false;
  let timers = {};
  const stale = new Set();

  const regions = () => [...document.querySelectorAll("[data-live]")];
  const topicsOf = (region) => region.dataset.live.split(/\s+/).filter(Boolean);
  const after = (name, milliseconds, work) => {
    clearTimeout(timers[name]);
    timers[name] = setTimeout(work, milliseconds);
  };

  // What is focused, typed, chosen or marked must not be taken from under anybody's hands.
  const chosen = (select) => {
    const options = [...select.options];
    const said = select.multiple || options.some((one) => one.defaultSelected);
    return options.some((one, at) => one.selected !== (said ? one.defaultSelected : at === 0));
  };
  const changed = (field) => {
    if (field.tagName === "SELECT") return chosen(field);
    if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
    return field.type !== "hidden" && field.value !== field.defaultValue;
  };

  const busy = (region) => {
    const active = document.activeElement;
    const inside = active && active !== region && region.contains(active);
    if (inside && (!active.id || active.closest("form"))) return true; // htmx gives the focus back by id
    if (region.querySelector("dialog[open]")) return true;
    const marked = document.getSelection();
    if (marked && !marked.isCollapsed && marked.containsNode(region, true)) return true;
    return [...region.querySelectorAll("input, textarea, select")].some(changed);
  };

  const note = (name) => {
    for (const one of document.querySelectorAll("[data-live-note]")) one.hidden = one.dataset.liveNote !== name;
  };

  const keep = (region) => {
    stale.add(region);
    note("stale");
  };

  const refresh = (region) => {
    stale.delete(region);
    if (!region.isConnected) return;
    if (busy(region)) keep(region);
    else region.dispatchEvent(new CustomEvent("live"));
  };

  const refreshAll = (topics) => {
    for (const region of regions()) {
      if (!topics || topicsOf(region).some((topic) => topics.includes(topic)))
        setTimeout(refresh, Math.random() * JITTER, region);
    }
  };

  const open = () => source && source.readyState === EventSource.OPEN;

  let rate = 0;
  const look = () => {
    const wanted = open() ? SELDOM : POLL;
    if (wanted === rate) return; // a stream that fails again and again must not put it off again and again
    rate = wanted;
    after("look", rate * (0.9 + Math.random() * 0.2), () => {
      if (!document.hidden) refreshAll();
      rate = 0;
      look();
    });
  };

  const close = () => {
    clearTimeout(timers.retry);
    if (source) source.close();
    source = null;
    listening = "";
  };

  const listen = () => {
    const topics = [...new Set(regions().flatMap(topicsOf))].sort().join(",");
    if (topics === listening && source) return;
    close();
    if (!topics || document.hidden) return;
    listening = topics;
    const mine = new EventSource("/live?topics=" + encodeURIComponent(topics));
    source = mine;
    mine.onopen = () => {
      pause = 5000;
      if (missed || performance.now() > YOUNG) refreshAll();
      missed = true; // from here on: whatever opens a stream again does so after a gap
      look();
    };
    mine.onerror = () => {
      look();
      // Refused, and the browser gives up: signed out, too many, or not ours to see any more.
      if (mine.readyState !== EventSource.CLOSED || mine !== source) return;
      close();
      after("retry", pause * (0.5 + Math.random()), listen);
      pause = Math.min(pause * 2, SELDOM);
    };
    mine.addEventListener("changed", (event) => refreshAll(event.data.split(" ")));
    mine.addEventListener("enough", () => {
      mine.close(); // this person has many pages open: this one looks now and then
      look();
    });
  };

  const begin = () => {
    if (!regions().length) return;
    listen();
    look();
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      after("away", AWAY, close);
      return;
    }
    clearTimeout(timers.away);
    if (!source) begin();
  });
  addEventListener("pagehide", close); // or the page is not kept for Back
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    missed = true;
    begin();
    refreshAll();
  });

  // Whoever has left a region gets what it missed.
  document.addEventListener("focusout", () => {
    if (stale.size) after("left", JITTER, () => [...stale].forEach(refresh));
  });

  // The answer of a region's own fetch, not of a form in it.
  const fetched = (detail) => {
    const region = detail.requestConfig && detail.requestConfig.elt;
    return region && region.dataset.live !== undefined ? region : null;
  };

  // Whoever is signed out meanwhile neither finds a sign-in page in the middle of this one, nor loses what they typed.
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    const { xhr, pathInfo } = event.detail;
    if (!fetched(event.detail)) return;
    const led = new URL(xhr.responseURL).pathname !== new URL(pathInfo.requestPath, location.href).pathname;
    if (xhr.status === 200 && !led && !xhr.getResponseHeader("HX-Redirect")) return;
    event.preventDefault();
    note("lost");
  });

  const opened = new Map();
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    const region = fetched(detail);
    if (!region) return;
    if (busy(region)) {
      detail.shouldSwap = false;
      keep(region);
      return;
    }
    opened.set(region, [...region.querySelectorAll("details[id]")].map((one) => [one.id, one.open]));
    if (!stale.size) note("");
  });
  document.addEventListener("htmx:afterSwap", ({ detail }) => {
    const region = fetched(detail);
    for (const [id, was] of opened.get(region) || []) {
      const one = document.getElementById(id);
      if (one) one.open = was;
    }
    opened.delete(region);
    listen(); // what is shown now may be about something else
  });

  begin();
})();
