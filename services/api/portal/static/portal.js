// What the portal does beyond plain HTML. Everything works without it: it copies, keeps pages up to date, and saves a click.
"use strict";

// Copy buttons are of no use without a script, so they are hidden until there is one.
for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const said = button.querySelector("[data-said]");
  try {
    await navigator.clipboard.writeText(source.textContent);
    said.textContent = "Copied";
  } catch {
    // No clipboard without https: select it, so that one key press copies.
    getSelection().selectAllChildren(source);
    said.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { said.textContent = "Copy"; }, 2000);
});

// On a phone the navigation is a row wider than the screen: bring the page that is open into view.
for (const here of document.querySelectorAll("nav [aria-current]")) {
  const nav = here.closest("nav"), row = nav.getBoundingClientRect(), link = here.getBoundingClientRect();
  nav.scrollLeft += link.left - row.left - (row.width - link.width) / 2;
}

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.method !== "post") return;
  if (event.target.dataset.sent) { event.preventDefault(); return; }
  event.target.dataset.sent = "yes";
});
addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });

// Live pages: the server says that something changed, and the parts marked data-live are fetched anew, rendered as ever.
const live = document.querySelector("[data-live-from]");
if (live && "EventSource" in window) {
  let busy = false, again = false;
  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href);
      if (answer.ok && !answer.redirected) replaceParts(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch { /* the next change tries again */ }
    busy = false;
    if (again) { again = false; refresh(); }
  };
  const replaceParts = (fresh) => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (!other) { part.remove(); continue; }
      if (part.isEqualNode(other)) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement.id : null;
      if (focused === "") continue; // taking away what the keyboard stands on would lose its place
      part.replaceWith(document.importNode(other, true));
      if (focused) document.getElementById(focused)?.focus();
    }
  };
  const state = document.getElementById("live-state");
  const show = (on) => { if (state) state.hidden = !on; };
  let source;
  const open = () => {
    source = new EventSource(live.dataset.liveFrom);
    source.addEventListener("changed", refresh);
    source.addEventListener("open", () => show(true));
    source.addEventListener("error", () => show(false));
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source?.close();
    else if (source?.readyState === EventSource.CLOSED) { open(); refresh(); }
  });
  open();
}

// Charts: one stop for the tab key, and the arrow keys inside.
for (const plot of document.querySelectorAll(".plot")) rove(plot);
function rove(plot) {
  const spots = [...plot.querySelectorAll(".spot")];
  spots.forEach((spot, index) => { spot.tabIndex = index === spots.length - 1 ? 0 : -1; });
}
document.addEventListener("keydown", (event) => {
  const spot = event.target.closest?.(".spot");
  if (!spot) return;
  const spots = [...spot.closest(".plot").querySelectorAll(".spot")];
  const at = spots.indexOf(spot);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: spots.length - 1 }[event.key];
  if (to === undefined || !spots[to]) return;
  event.preventDefault();
  spot.tabIndex = -1;
  spots[to].tabIndex = 0;
  spots[to].focus();
});
