"use strict";
// Filters, keyboard, playheads and the theme. It builds no HTML: texts stay text.
(() => {
  const byId = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".card")];
  const clips = cards.map((card) => ({
    card,
    video: card.querySelector("video"),
    find: card.dataset.find,
    labels: JSON.parse(card.dataset.labels),
    why: JSON.parse(card.dataset.why),
    scores: JSON.parse(card.dataset.scores),
  }));

  // --- filters
  const value = (id) => (byId(id) ? byId(id).value : "");
  const isWanted = (clip) => {
    const text = value("text").trim().toLowerCase();
    if (text && !clip.find.includes(text)) return false;
    if (value("label") && !clip.labels.includes(Number(value("label")))) return false;
    if (value("why") && !clip.why.includes(Number(value("why")))) return false;
    if (!value("score")) return true;
    const score = clip.scores[value("score")];
    if (score === undefined) return false;
    return !(value("least") && score < Number(value("least"))) && !(value("most") && score > Number(value("most")));
  };
  const filter = () => {
    let count = 0;
    for (const clip of clips) {
      clip.card.hidden = !isWanted(clip);
      count += clip.card.hidden ? 0 : 1;
      if (clip.card.hidden && clip.video) clip.video.pause();
    }
    byId("shown").textContent = `${count} of ${clips.length} clips`;
  };
  const form = byId("filters");
  if (form) {
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(filter));
  }

  // --- playheads
  for (const { card, video } of clips) {
    const timeline = card.querySelector(".timeline");
    if (!video || !timeline) continue;
    const head = timeline.querySelector(".playhead");
    const place = () => {
      const at = video.duration ? `${(100 * video.currentTime) / video.duration}%` : "0";
      head.setAttribute("x1", at);
      head.setAttribute("x2", at);
      if (!video.paused && !video.ended) requestAnimationFrame(place);
    };
    for (const event of ["play", "pause", "seeked", "ended"]) video.addEventListener(event, place);
    timeline.addEventListener("click", (event) => {
      const box = timeline.getBoundingClientRect();
      const seek = () => { video.currentTime = ((event.clientX - box.left) / box.width) * video.duration; };
      if (video.readyState) return seek();
      video.addEventListener("loadedmetadata", seek, { once: true });
      video.load();
    });
  }

  // --- keyboard
  const play = (video) => {
    if (!video.paused) return video.pause();
    for (const other of clips) if (other.video && other.video !== video) other.video.pause();
    video.play();
  };
  const columns = (seen) => seen.filter((card) => card.offsetTop === seen[0].offsetTop).length;
  const move = (key) => {
    const seen = cards.filter((card) => !card.hidden);
    if (!seen.length) return;
    const now = seen.indexOf(document.activeElement.closest(".card"));
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(seen), ArrowUp: -columns(seen) };
    const next = now < 0 ? 0 : Math.min(seen.length - 1, Math.max(0, now + steps[key]));
    seen[next].focus();
    seen[next].scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    if (event.key === "Escape" && target.id === "text") return target.blur();
    if (target.closest("input, select, textarea, button, summary, a")) return;
    const clip = clips.find(({ card }) => card === target.closest(".card"));
    if (event.key === "/" && byId("text")) {
      event.preventDefault();
      byId("text").focus();
    } else if (event.key === " " && clip && clip.video && target === clip.card) {
      event.preventDefault();
      play(clip.video);
    } else if (event.key.startsWith("Arrow") && target.tagName !== "VIDEO" && (clip || event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      event.preventDefault();
      move(event.key);
    }
  });

  // --- theme: the system's, until the button is pressed
  const button = byId("theme");
  const isDark = () => (document.documentElement.dataset.theme
    || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  show();
})();
