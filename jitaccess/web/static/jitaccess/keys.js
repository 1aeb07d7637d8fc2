// Keys for a list of links, in whatever has data-keys: j and k go to the next one and the one before, ? says so.
// Enter is the link's own. No key decides anything, and whoever does not want them turns them off (WCAG 2.2, 2.1.4).
(() => {
  "use strict";

  const OFF = "jitaccess-keys-off";
  const dialog = document.getElementById("keys");
  const off = () => localStorage.getItem(OFF) === "1";
  const links = () => [...document.querySelectorAll("[data-keys] a.row-who")];

  const go = (step) => {
    const all = links();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement);
    const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + step, 0), all.length - 1);
    all[next].focus();
    all[next].scrollIntoView({ block: "nearest" });
  };

  const show = () => {
    dialog.querySelector("[data-keys-switch]").textContent = off() ? "Turn the keys on" : "Turn the keys off";
    dialog.showModal();
  };

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (dialog && dialog.open) return;
    if (off()) return;
    if (event.key === "?" && dialog) show();
    else if (event.key === "j") go(1);
    else if (event.key === "k") go(-1);
    else return;
    event.preventDefault();
  });

  if (!dialog) return;
  const opener = document.querySelector("[data-keys-open]");
  opener.hidden = false;
  opener.addEventListener("click", show);
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "off") localStorage.setItem(OFF, off() ? "0" : "1");
    dialog.returnValue = "";
  });
})();
