"use strict";
// What all views use; and tables that are wider than their box say so.
const page = (() => {
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function told(box) {
    const rest = box.scrollWidth - box.clientWidth - Math.ceil(box.scrollLeft);
    box.parentElement.classList.toggle("more", rest > 1);
    box.parentElement.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
  }

  const sizes = new ResizeObserver((changed) => changed.forEach(({ target }) => told(target)));
  for (const box of document.querySelectorAll(".scroll")) {
    sizes.observe(box);
    box.addEventListener("scroll", () => told(box), { passive: true });
  }
  return { element };
})();
