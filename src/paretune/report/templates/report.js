(() => {
  "use strict";
  const tip = document.getElementById("tip");
  // The page's own tip replaces the browser's slow one, which stays for whoever has no script.
  for (const title of document.querySelectorAll("[data-tip] > title")) title.remove();

  const show = (mark) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = mark.querySelector(".dot")?.getBoundingClientRect() ?? mark.getBoundingClientRect();
    const left = Math.min(Math.max(box.left + box.width / 2 - tip.offsetWidth / 2, 8),
      document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 10;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(above > 4 ? above : box.bottom + 10) + scrollY}px`;
  };
  const light = (name) => {
    for (const mark of document.querySelectorAll("[data-candidate]")) {
      mark.classList.toggle("lit", name !== undefined && mark.dataset.candidate === name);
    }
  };
  const over = (event) => {
    const mark = event.target.closest("[data-tip]");
    if (mark) show(mark); else tip.hidden = true;
    light(event.target.closest("[data-candidate]")?.dataset.candidate);
  };
  document.addEventListener("mouseover", over);
  document.addEventListener("focusin", over);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
