// Copy buttons, live pages and keyboard navigation of charts. Every page works without this script.
"use strict";

// Copy buttons need a script, so they are hidden without one.
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
    // Browsers give no clipboard without https: select the text, so that one key press copies it.
    getSelection().selectAllChildren(source);
    said.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { said.textContent = "Copy"; }, 2000);
});

// On a phone the navigation is wider than the screen: scroll the current page into view.
for (const here of document.querySelectorAll("nav [aria-current]")) {
  const nav = here.closest("nav"), row = nav.getBoundingClientRect(), link = here.getBoundingClientRect();
  nav.scrollLeft += link.left - row.left - (row.width - link.width) / 2;
}

// Send a form only once, even if its button is pressed again.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.method !== "post") return;
  if (event.target.dataset.sent) { event.preventDefault(); return; }
  event.target.dataset.sent = "yes";
});
addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });

// Live pages: when the server reports a change, load the page again and replace the parts marked data-live.
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
      if (focused === "") continue; // replacing the focused element would lose the focus
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

// Charts: one tab stop; the arrow keys move inside the chart.
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
