// SPDX-License-Identifier: Apache-2.0
// New rows of the page Decisions: added at its top, held back while paused, at most as many as the table allows.
// A hidden page has no stream, which would hold one of the browser's few connections to the mint.
(() => {
  const table = document.querySelector("[data-feed]");
  if (!table || !window.EventSource) return;
  const body = table.tBodies[0];
  const state = document.querySelector("[data-state]");
  const button = document.querySelector("[data-pause]");
  const problem = document.querySelector("[data-problem]");
  const empty = document.querySelector("[data-empty]");
  const most = Number(table.dataset.most);
  let held = [], stopped = false, over = false, source = null, last = "", ended = false;

  const say = (word, tone) => { state.textContent = word; state.className = `badge ${tone}`; };
  const paused = () => stopped || over;
  const show = () => {
    const rows = held.reduce((count, html) => count + html.split("<tr").length - 1, 0);
    button.textContent = stopped ? (rows ? `Resume (${rows} new)` : "Resume") : "Pause";
    button.setAttribute("aria-pressed", String(stopped));
    if (source?.readyState === EventSource.OPEN) say(paused() ? "paused" : "live", paused() ? "warn" : "ok");
  };
  const flush = () => {
    if (!paused() && held.length) {
      for (const html of held) body.insertAdjacentHTML("afterbegin", html);
      held = [];
      empty.hidden = true;
      while (body.rows.length > most) body.deleteRow(-1);
    }
    show();
  };
  const warn = (words) => { problem.textContent = words; problem.hidden = false; };
  const close = () => { source?.close(); source = null; };
  const open = () => {
    if (source || ended || document.hidden) return;
    const address = new URL(table.dataset.feed, location);
    if (last) address.searchParams.set("after", last);
    source = new EventSource(address);
    source.onopen = () => { problem.hidden = true; show(); };
    source.onmessage = (event) => {
      problem.hidden = true;
      last = event.lastEventId;
      held.push(event.data);
      // A page that stays paused keeps no more than it could show.
      if (held.length > most) held.splice(0, held.length - most);
      flush();
    };
    source.addEventListener("problem", (event) => {
      warn(`New decisions cannot be read: ${event.data}. The page tries again.`);
    });
    source.addEventListener("paused", () => {
      close();
      say("not live", "warn");
      warn(document.querySelector("[data-stale]").dataset.paused);
    });
    source.addEventListener("ended", () => {
      ended = true;
      close();
      say("ended", "bad");
      warn("You are not signed in any more, or may not read the log. Refresh the page.");
    });
    source.onerror = () => say(source?.readyState === EventSource.CLOSED ? "not live" : "connecting again", "warn");
  };

  button.hidden = false;
  button.addEventListener("click", () => { stopped = !stopped; flush(); });
  table.addEventListener("mouseenter", () => { over = true; show(); });
  table.addEventListener("mouseleave", () => { over = false; flush(); });
  table.addEventListener("focusin", () => { over = true; show(); });
  table.addEventListener("focusout", () => { over = false; flush(); });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return open();
    close();
    say("not live", "quiet");
  });
  window.addEventListener("focus", open);
  document.addEventListener("pointerdown", open);
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
})();
