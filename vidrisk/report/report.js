// Filter, sort and enlarge. The page is complete without it.
(() => {
  const gallery = document.getElementById("gallery");
  const toolbar = document.getElementById("toolbar");
  if (!gallery || !toolbar) return;
  const cards = [...gallery.children];
  const { search, label, level, uncertain, order } = toolbar.elements;
  const shown = document.getElementById("shown");
  const empty = document.getElementById("empty");
  const number = (card, key) => Number(card.dataset[key]);
  const orders = {
    report: (a, b) => number(a, "place") - number(b, "place"),
    surest: (a, b) => number(b, "score") - number(a, "score"),
    doubtful: (a, b) => number(a, "score") - number(b, "score"),
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
  };

  const labels = (card) => [card.dataset.label, ...[...card.querySelectorAll(".what")].map((what) => what.textContent)];
  const visible = () => [...gallery.children].filter((card) => !card.hidden);
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const card of cards) {
      const text = card.dataset.text || (card.dataset.text = `${card.dataset.name} ${card.textContent}`.toLowerCase());
      card.hidden = !words.every((word) => text.includes(word))
        || (label && label.value !== "" && !labels(card).includes(label.value))
        || (level && level.value !== "" && card.dataset.level !== level.value)
        || (uncertain && uncertain.checked && card.dataset.uncertain !== "1");
    }
    gallery.append(...cards.sort(orders[order ? order.value : "report"]));
    const count = visible().length;
    shown.textContent = `${count} of ${cards.length}`;
    empty.hidden = count > 0;
  };
  toolbar.addEventListener("input", update);
  toolbar.addEventListener("submit", (event) => event.preventDefault());
  toolbar.hidden = false;
  update();

  const dialog = document.getElementById("lightbox");
  const stage = document.getElementById("stage");
  const title = document.getElementById("stage-title");
  let current = null;
  const show = (card, view = card?.querySelector(".view")) => {
    if (!card) return;
    current = card;
    stage.replaceChildren(view.firstElementChild.cloneNode(true));
    const heading = card.querySelector("h3");
    const name = `\u2068${card.dataset.name}\u2069`;
    title.textContent = heading.querySelector("bdi") ? name : `${heading.textContent} · ${name}`;
    if (!dialog.open) dialog.showModal();
  };
  const step = (by) => {
    const list = visible().filter((card) => card.querySelector(".view"));
    show(list[(list.indexOf(current) + by + list.length) % list.length]);
  };
  for (const view of gallery.querySelectorAll(".view")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "view";
    button.append(...view.childNodes);
    view.replaceWith(button);
    button.addEventListener("click", () => show(button.closest(".card"), button));
  }
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
})();
