// SPDX-License-Identifier: Apache-2.0
// Says when a page that follows the realm is not live: what it shows may be old until the stream is there again.
(() => {
  const notice = document.querySelector("[data-stale]");
  if (!notice) return;
  const text = notice.querySelector("p");
  const lost = text.textContent;
  let ended = false;
  const show = (words) => { text.textContent = words; notice.hidden = false; };
  document.addEventListener("htmx:sse:before:connection", (event) => {
    if (event.detail.connection.attempt > 0) show(lost);
  });
  document.addEventListener("htmx:sse:error", () => { if (!ended) show(lost); });
  document.addEventListener("htmx:sse:after:connection", () => { if (!ended) notice.hidden = true; });
  document.addEventListener("ended", () => { ended = true; show(notice.dataset.ended); });
})();
