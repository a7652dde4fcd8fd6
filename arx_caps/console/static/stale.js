// SPDX-License-Identifier: Apache-2.0
// Says when a page that follows the realm is not live: what it shows may be old until the stream is there again.
// htmx itself ends the stream of a hidden page, and begins it again when the page is shown.
(() => {
  const notice = document.querySelector("[data-stale]");
  if (!notice) return;
  const text = notice.querySelector("p");
  const lost = text.textContent;
  let ended = false;
  const paused = new Set();
  const show = (words) => { text.textContent = words; notice.hidden = false; };
  const resume = () => {
    for (const part of paused) {
      paused.delete(part);
      htmx.ajax("GET", part.getAttribute("hx-sse:connect"), { source: part });
    }
  };
  document.addEventListener("htmx:sse:before:connection", (event) => {
    // The mint ended this stream so that the browser keeps connections for other pages: it begins again with the focus.
    if (paused.has(event.target)) event.preventDefault();
    else if (event.detail.connection.attempt > 0) show(lost);
  });
  document.addEventListener("htmx:sse:error", () => { if (!ended) show(lost); });
  document.addEventListener("htmx:sse:after:connection", () => { if (!ended) notice.hidden = true; });
  document.addEventListener("ended", () => { ended = true; show(notice.dataset.ended); });
  document.addEventListener("paused", (event) => { paused.add(event.target); show(notice.dataset.paused); });
  window.addEventListener("focus", resume);
  document.addEventListener("pointerdown", resume);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) resume(); });
})();
