// allauth tells of a passkey that was not given (cancelled, timed out, of another site) by an event; people want words.
document.addEventListener("allauth.error", (event) => {
  event.preventDefault();
  const note = document.getElementById("passkey-failed");
  if (note) note.hidden = false;
});
