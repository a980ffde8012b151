// Filters, the slider, words, sorting and copying. Reads two JSON blocks: the cells' facets, and the thumbnails.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const cells = json("index");
  const thumbnails = json("thumbnails");

  // Pictures are decoded when they come near the window.
  const show = (img) => {
    if (img.dataset.p !== "") img.src = `data:image/webp;base64,${thumbnails[img.dataset.p]}`;
  };
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((e) => e.isIntersecting)) {
        show(entry.target);
        near.unobserve(entry.target);
      }
    },
    { rootMargin: "800px" },
  );
  all("img[data-p]").forEach((img) => near.observe(img));
  addEventListener("beforeprint", () => all("img[data-p]").forEach(show));

  // Filters hide cells, seeds, table rows, points and bars alike: whatever carries data-cell or data-seed.
  const form = document.getElementById("filters");
  const fits = (cell, asked) =>
    Object.entries(asked).every(([name, value]) => {
      if (name === "text") return value.toLowerCase().split(/\s+/).every((word) => cell.text.includes(word));
      return name === "seed" ? cell.seeds.includes(value) : cell[name] === value;
    });
  const filter = () => {
    const asked = Object.fromEntries([...new FormData(form)].filter(([name, value]) => name !== "view" && value.trim()));
    const shown = cells.map((cell) => fits(cell, asked));
    for (const part of all("[data-cell]")) part.classList.toggle("out", !shown[part.dataset.cell]);
    for (const seed of all("[data-seed]")) seed.classList.toggle("out", "seed" in asked && seed.dataset.seed !== asked.seed);
    const count = shown.filter(Boolean).length;
    document.getElementById("count").textContent = `${count} of ${cells.length} cells`;
    document.getElementById("none").hidden = count > 0;
    document.body.classList.toggle("sliding", form.elements.view.value === "sliding");
  };
  if (form) {
    form.addEventListener("input", filter);
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", (event) => event.preventDefault());
    if (matchMedia("(max-width: 40rem)").matches) form.querySelector("details").open = false;
    filter(); // the browser may have kept the fields of an earlier visit
  }

  // The slider: 0 without, 100 source, 200 with; between them one picture is wiped over the source.
  const slide = (seed, value) => {
    const range = seed.querySelector("input[type=range]");
    range.value = value;
    const at = Number(range.value);
    const part = Math.abs(at - 100);
    const arm = at < 100 ? "without" : "with";
    range.setAttribute("aria-valuetext", part === 0 ? "source" : part === 100 ? arm : `${arm} over ${part} % of the source`);
    seed.style.setProperty("--wiped-without", `${Math.max(0, 100 - at)}%`);
    seed.style.setProperty("--wiped-with", `${Math.max(0, at - 100)}%`);
    all(".stops button", seed).forEach((stop) => stop.setAttribute("aria-pressed", stop.value === range.value));
  };
  for (const seed of all(".seed")) {
    seed.querySelector("figcaption").before(document.getElementById("slide").content.cloneNode(true));
    const range = seed.querySelector("input[type=range]");
    range.setAttribute("aria-label", `seed ${seed.dataset.seed}: without, source, with`);
    slide(seed, 200);
    range.addEventListener("input", (event) => slide(seed, event.target.value));
    all(".stops button", seed).forEach((stop) => stop.addEventListener("click", () => slide(seed, stop.value)));
  }

  // Words: pointing at one, or reaching it with the keyboard, shows where it acts.
  for (const block of all(".attention")) {
    const heat = block.querySelector(".heat img");
    const choose = (word) => {
      all(".word", block).forEach((other) => other.setAttribute("aria-pressed", other === word));
      heat.dataset.p = word.dataset.p;
      heat.alt = `where “${word.textContent}” acts in the ${word.dataset.side}`;
      block.querySelector("figcaption").textContent = heat.alt;
      show(heat);
    };
    const words = all(".word", block);
    for (const word of words)
      for (const kind of ["click", "focus", "pointerenter"]) word.addEventListener(kind, () => choose(word));
    if (words.length) choose(words.findLast((word) => word.dataset.changed) ?? words[words.length - 1]);
  }

  // Tables: a click on a heading sorts by it, a second one the other way round; what has no number comes last.
  const order = (row, column) => {
    const text = row.cells[column].dataset.order;
    return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  const sort = (heading) => {
    const table = heading.closest("table");
    const falling = heading.getAttribute("aria-sort") === "ascending";
    all("th", table).forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [order(row, heading.cellIndex), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : falling ? compare(b, a) : compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  for (const button of all(".sortable th button")) button.addEventListener("click", () => sort(button.parentElement));

  for (const select of all("select.metric"))
    select.addEventListener("change", () => {
      for (const plot of all(".plot", select.closest("figure"))) plot.hidden = plot.dataset.metric !== select.value;
    });

  // Copying: the clipboard where the browser allows it, a selection to copy by hand elsewhere.
  const copy = async (button) => {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "selected";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  };
  for (const command of all(".command")) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: "copy" });
    button.setAttribute("aria-label", `copy: ${command.dataset.says}`);
    button.addEventListener("click", () => copy(button));
    command.append(button);
  }
  for (const link of all(".arm a")) link.title = "open the original";
})();
