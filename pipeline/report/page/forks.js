"use strict";
// The fork browser: choosing a response and a chunk, by mouse, keys and address.
(() => {
  if (!forkData) return;
  const { data, $, ID, PROMPT, TOKENS, ENTROPIES, REWARD, ENDED } = forkData;
  const { stages, rows, isRight, textOf, mean, chunks, wanted, matching } = forkData;
  const { element, written, response, chunkPanel } = forkView;
  const state = { view: null, matches: [], at: 0, chunk: null, order: "similarity", moved: false };

  function openChunk(f) {
    const i = state.matches[state.at], known = chunks(state.view, i)[f] !== undefined;
    state.chunk = known ? f : null;
    for (const span of document.querySelectorAll("#f-text-box .chunk")) {
      const open = Number(span.dataset.fork) === state.chunk;
      span.setAttribute("aria-expanded", String(open));
      if (open) keepIn($("f-text-box"), span);
    }
    const order = element("button", { type: "button", id: "f-order" }, `sorted by ${state.order} ⇅`);
    order.setAttribute("aria-label", `continuations in order of ${state.order}; change`);
    order.addEventListener("click", reorder);
    $("f-chunk").replaceChildren(
      ...(known ? chunkPanel(state.view, i, f, order, state.order) : []));
    remember();
  }

  function reorder() {
    state.order = state.order === "similarity" ? "sample" : "similarity";
    openChunk(state.chunk);
    $("f-order")?.focus();
  }

  // ---- one response, and the list

  function show(at, chunk = null) {
    const total = state.matches.length, all = rows(state.view).length;
    state.at = Math.max(0, Math.min(at, total - 1));
    $("f-count").textContent = total === all ? `${state.at + 1} of ${all}`
      : total ? `${state.at + 1} of ${total} that match, of ${all}` : `0 match, of ${all}`;
    $("f-prev").disabled = !total || state.at === 0;
    $("f-next").disabled = !total || state.at === total - 1;
    for (const [n, item] of [...$("f-list").children].entries()) {
      item.firstChild.setAttribute("aria-current", String(n === state.at));
      item.firstChild.tabIndex = n === state.at ? 0 : -1;
      if (n === state.at) keepIn($("f-list"), item);
    }
    for (const id of ["f-head", "f-prompt", "f-text-box", "f-chunk"]) $(id).replaceChildren();
    for (const id of ["f-prompt", "f-text-box", "f-key"]) $(id).hidden = !total;
    if (!total) {
      $("f-head").append("No response matches. Clear the filters to see all.");
      remember();
      return;
    }
    const i = state.matches[state.at], row = rows(state.view)[i];
    head(row);
    written($("f-prompt"), data.prompts[row[PROMPT]]);
    response($("f-text-box"), state.view, i, wanted());
    openChunk(chunk);
  }

  function keepIn(box, item) {  // scrolls the box and not the page
    const outer = box.getBoundingClientRect(), inner = item.getBoundingClientRect();
    if (inner.top < outer.top) box.scrollTop -= outer.top - inner.top + 8;
    else if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom + 8;
  }

  function head(row) {
    const right = isRight(row);
    const badge = right === null ? null
      : element("span", { class: `badge ${right ? "good" : "bad"}` }, right ? "correct" : "wrong");
    const reward = row[REWARD] === null ? "no checker" : `reward ${row[REWARD]}`;
    const end = row[ENDED] ? "" : " · cut off at the limit";
    $("f-head").append(element("b", {}, row[ID]), badge ?? "",
      `${reward} · ${row[TOKENS].length} tokens · mean entropy `
      + `${(mean(row[ENTROPIES]) / 100).toFixed(2)} nats${end}`);
  }

  function list() {
    state.matches = matching(state.view);
    $("f-list").replaceChildren(...state.matches.map((i, at) => {
      const row = rows(state.view)[i], right = isRight(row);
      const sign = right === null ? "·" : right ? "✓" : "✗";
      const kind = right === null ? "" : right ? " right" : " wrong";
      const button = element("button", { type: "button", "aria-label": `${row[ID]}${right === null ? "" : right ? ", correct" : ", wrong"}` },
        element("span", { class: `sign${kind}`, "aria-hidden": "true" }, sign),
        element("span", { class: "preview" }, textOf(row).slice(0, 80)));
      button.addEventListener("click", () => show(at));
      return element("li", {}, button);
    }));
  }

  // ---- choosing a view

  function options(select, values, chosen) {
    select.replaceChildren(...values.map((value) => element("option", { value }, String(value))));
    select.value = values.map(String).includes(String(chosen)) ? chosen : values[0];
  }
  const unique = (values) => [...new Set(values)];

  function choose(arm, seed, round) {
    options($("f-arm"), unique(data.views.map((v) => v.arm)), arm);
    const own = data.views.filter((v) => v.arm === $("f-arm").value);
    options($("f-seed"), unique(own.map((v) => v.seed)), seed);
    const rounds = own.filter((v) => String(v.seed) === $("f-seed").value);
    options($("f-round"), rounds.map((v) => v.round), round);
    state.view = rounds.find((v) => String(v.round) === $("f-round").value);
    const { total, right, rows: shown } = data.rollouts[state.view.rollout];
    const shares = right === null ? "" : ` ${right} of the ${total} are correct;`
      + ` ${shown.filter(isRight).length} of those shown.`;
    $("f-sample").textContent = shown.length < total
      ? `Shows ${shown.length} of ${total} responses, drawn at random by id${right === null ? "" : ", as many correct as wrong where there are"}.${shares}`
      : `Shows all ${total} responses.${shares}`;
    $("f-correct-label").hidden = right === null;
    $("f-forks").hidden = !state.view.cells.forks;
    $("f-s").hidden = !stages(state.view, "score").length;
    key();
    list();
  }

  function key() {
    const chunk = state.view.cells.forks
      ? "; outlined: an audited chunk, click or press Enter to open it."
      : ". This arm audits no chunk: it learns from the whole response.";
    $("f-key").replaceChildren("entropy 0 ", element("span", { class: "ramp", "aria-hidden": "true" }),
      ` ${forkData.highest.toFixed(1)} nats${chunk}`);
  }

  // where to begin: a chunk on which the teacher's samples disagree says more than the first one
  function telling() {
    for (const [at, i] of state.matches.entries()) {
      const f = chunks(state.view, i).findIndex(({ similarity: s }) => s > 0.2 && s < 0.8);
      if (f >= 0) return [at, f];
    }
    return [0, 0];
  }

  // ---- the address

  function remember() {
    const row = state.matches.length ? rows(state.view)[state.matches[state.at]] : null;
    const parts = [state.view.arm, state.view.seed, state.view.round, row ? row[ID] : ""];
    if (state.chunk !== null) parts.push(chunks(state.view, state.matches[state.at])[state.chunk].position);
    const hash = `#forks/${parts.map(encodeURIComponent).join("/")}`;
    if (state.moved && location.hash !== hash) history.replaceState(null, "", hash);
  }

  function decoded(part) {
    try { return decodeURIComponent(part); } catch { return part; } // a cut or mistyped address
  }

  function recall() {
    const [name, ...parts] = location.hash.slice(1).split("/");
    if (name !== "forks" || !parts.length) return false;
    const [arm, seed, round, id, position] = parts.map(decoded);
    for (const field of $("f-filters").querySelectorAll("input, select")) field.value = "";
    choose(arm, seed, round);
    const at = state.matches.findIndex((i) => rows(state.view)[i][ID] === id);
    const found = at < 0 ? [] : chunks(state.view, state.matches[at]);
    const f = found.findIndex((chunk) => String(chunk.position) === position);
    state.moved = true;
    show(Math.max(at, 0), f < 0 ? null : f);
    $("forks").scrollIntoView();
    return true;
  }

  // ---- events

  function keys(event) {
    const target = event.target, inside = target.closest?.("#browser");
    const typing = target.closest?.("input, select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target !== document.body && !inside) return;
    const listed = target.closest?.("#f-list");
    const act = {
      j: () => step(1), k: () => step(-1), s: () => $("f-order") && reorder(), n: nextChunk, "?": help,
      ...(inside ? { ArrowRight: () => step(1), ArrowLeft: () => step(-1) } : {}),
      ...(listed ? { ArrowDown: () => step(1), ArrowUp: () => step(-1) } : {}),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    state.moved = true;
    act();
    if (listed) $("f-list").children[state.at]?.firstChild.focus({ preventScroll: true });
  }

  function nextChunk() {
    const found = state.matches.length ? chunks(state.view, state.matches[state.at]).length : 0;
    if (found) openChunk(state.chunk === null ? 0 : (state.chunk + 1) % found);
  }

  function help() {
    const line = document.querySelector(".help");
    line.classList.add("told");
    line.scrollIntoView({ block: "center" });
  }

  function step(by) {
    const to = state.at + by;
    if (to >= 0 && to < state.matches.length) show(to);
  }

  const moved = (act) => (...given) => { state.moved = true; act(...given); };
  for (const id of ["f-arm", "f-seed", "f-round"]) {
    $(id).addEventListener("change", moved(() => {
      choose($("f-arm").value, $("f-seed").value, $("f-round").value);
      show(0);
    }));
  }
  const refilter = moved(() => { list(); show(0); });
  $("f-filters").addEventListener("input", refilter);
  $("f-filters").addEventListener("reset", () => setTimeout(refilter));
  $("f-filters").addEventListener("submit", (event) => event.preventDefault());
  $("f-prev").addEventListener("click", moved(() => step(-1)));
  $("f-next").addEventListener("click", moved(() => step(1)));
  const opened = (event) => event.target.closest(".chunk");
  const toggle = (span) => openChunk(Number(span.dataset.fork) === state.chunk ? null : Number(span.dataset.fork));
  $("f-text-box").addEventListener("click", moved((event) => opened(event) && toggle(opened(event))));
  $("f-text-box").addEventListener("keydown", moved((event) => {
    if (!["Enter", " "].includes(event.key) || !opened(event)) return;
    event.preventDefault();
    toggle(opened(event));
  }));
  document.addEventListener("keydown", keys);
  addEventListener("hashchange", recall);
  const absent = [];
  if (data.absent.length) {
    const names = data.absent.join(", ").replace(/, ([^,]*)$/, " and $1");
    absent.push(`Not here: ${names}, without rollouts of ${data.absent.length > 1 ? "their" : "its"} own.`);
  }
  if (data.thinned) absent.push("Only some rounds and seeds are here: all would not fit into a page.");
  $("f-absent").textContent = absent.join(" ");
  $("f-absent").hidden = !absent.length;
  $("f-seed-label").hidden = unique(data.views.map((v) => v.seed)).length === 1;
  if (!recall()) { choose(); show(...telling()); }
})();
