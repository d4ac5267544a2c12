"use strict";
// The fork browser. All that a model wrote is put in as text nodes, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("browser-data").textContent);
  const $ = (id) => document.getElementById(id);
  if (!data) return;
  const ID = 0, PROMPT = 1, TOKENS = 2, ENTROPIES = 3, REWARD = 4, ENDED = 5;
  const state = { view: null, matches: [], at: 0, chunk: null, order: "similarity" };

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  const stages = (view, stage) => Object.entries(view.cells)
    .filter(([name]) => name === stage || name.startsWith(`${stage}-`))
    .map(([name, key]) => ({ teacher: name.slice(stage.length + 1), rows: data.cells[key] }));
  const rows = (view) => data.rollouts[view.rollout].rows;
  const isRight = (row) => row[REWARD] === null ? null : row[REWARD] === 1;
  const textOf = (row) => row[TOKENS].map((i) => data.tokens[i]).join("");
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

  // every audited chunk of response i: its place, and what each stage knows of it
  function chunks(view, i) {
    const forks = view.cells.forks ? data.cells[view.cells.forks][i] : [];
    const scores = stages(view, "score");
    return forks.map(([position, length, entropy], f) => {
      const found = scores.filter((cell) => cell.rows[i][f].length);
      const similarity = found.length ? mean(found.map((cell) => cell.rows[i][f][0])) : null;
      const prior = view.cells.prior ? data.cells[view.cells.prior][i][f] : [];
      return { f, position, length, entropy, similarity, prior };
    });
  }

  // ---- filters

  const bound = (id, otherwise) => $(id).value === "" ? otherwise : Number($(id).value);

  function wanted() {
    const range = (name) => [bound(`f-${name}-min`, -Infinity), bound(`f-${name}-max`, Infinity)];
    return { correct: $("f-correct").value, text: $("f-text").value, h: range("h"), s: range("s") };
  }

  const within = (value, [low, high]) =>
    (low === -Infinity && high === Infinity) || (value !== null && value >= low && value <= high);
  const limits = ({ h, s }) => [...h, ...s].some(Number.isFinite);
  const fits = (chunk, want) => within(chunk.entropy, want.h) && within(chunk.similarity, want.s);

  function matching(view) {
    const want = wanted();
    return rows(view).flatMap((row, i) => {
      if (want.correct !== "" && isRight(row) !== (want.correct === "1")) return [];
      if (want.text !== "" && !textOf(row).includes(want.text)) return [];
      return limits(want) && !chunks(view, i).some((chunk) => fits(chunk, want)) ? [] : [i];
    });
  }

  // ---- text

  function written(target, text) {  // spaces and line ends can be seen; the text stays the same
    for (const part of text.split(/( |\n)/)) {
      if (part === " ") target.append(element("span", { class: "sp" }, " "));
      else if (part === "\n") target.append(element("span", { class: "nl" }, "\n"));
      else if (part !== "") target.append(part);
    }
    return target;
  }

  function token(row, t, highest) {
    const nats = row[ENTROPIES][t] / 100;
    const text = data.tokens[row[TOKENS][t]];
    const share = Math.sqrt(nats / highest);
    const made = element("span", { class: "tok", title: `token ${t}: ${nats.toFixed(2)} nats` });
    made.style.backgroundColor = `rgba(var(--heat), calc(var(--heat-most) * ${share.toFixed(3)}))`;
    const last = t === row[TOKENS].length - 1;
    if (text === "" && last && row[ENDED]) {
      made.classList.add("end");
      made.dataset.end = "";
      made.setAttribute("aria-label", "end of the response");
      return made;
    }
    return written(made, text);
  }

  function response(view, i) {
    const row = rows(view)[i], want = wanted(), box = $("f-text-box");
    const highest = data.highest;
    const found = chunks(view, i);
    box.replaceChildren();
    let t = 0;
    for (const chunk of found) {
      for (; t < chunk.position; t += 1) box.append(token(row, t, highest));
      const label = `chunk ${chunk.f + 1} of ${found.length}, tokens ${chunk.position} to `
        + `${chunk.position + chunk.length - 1}, entropy ${chunk.entropy.toFixed(2)} nats`
        + (chunk.similarity === null ? "" : `, mean similarity ${chunk.similarity.toFixed(2)}`);
      const span = element("span", {
        class: "chunk", role: "button", tabindex: "0", "aria-expanded": "false",
        "aria-label": label, "data-fork": chunk.f,
      });
      if (limits(want) && !fits(chunk, want)) span.classList.add("no-match");
      for (; t < chunk.position + chunk.length; t += 1) span.append(token(row, t, highest));
      box.append(span);
    }
    for (; t < row[TOKENS].length; t += 1) box.append(token(row, t, highest));
  }

  // ---- one chunk

  const facts = (pairs) => element("dl", { class: "facts" }, ...pairs.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));

  function compared(text, chunk) {  // both are compared without the spaces that they begin with
    const own = chunk.trimStart(), other = text.trimStart();
    let same = 0;
    while (same < own.length && same < other.length && own[same] === other[same]) same += 1;
    const cut = text.length - other.length + same;
    const made = element("span", { class: "said" });
    written(made, text.slice(0, cut));
    if (cut < text.length) made.append(written(element("span", { class: "differs" }), text.slice(cut)));
    return made;
  }

  function continuations(cell, scores, i, f, chunk) {
    const found = cell.rows[i][f].map((code, sample) => ({
      sample, text: data.texts[code >> 1], ended: code % 2 === 1,
      similarity: scores?.rows[i][f].length ? scores.rows[i][f][sample + 1] / 1000 : null,
    }));
    const scored = found.some((one) => one.similarity !== null);
    if (state.order === "similarity" && scored) {
      found.sort((a, b) => b.similarity - a.similarity || a.sample - b.sample);
    }
    const list = element("ol", scored ? {} : { class: "plain" });
    for (const one of found) {
      const item = element("li", { "data-sample": one.sample },
        element("span", { class: "number" }, String(one.sample + 1)));
      if (scored) {
        const bar = element("b");
        bar.style.width = `${100 * one.similarity}%`;
        item.append(element("span", { class: "sim" }, element("i", { "aria-hidden": "true" }, bar),
          one.similarity.toFixed(3)));
      }
      const said = compared(one.text, chunk);
      if (one.ended) said.append(element("span", { class: "end", title: "the teacher ended here", "data-end": "" }));
      item.append(said);
      list.append(item);
    }
    return list;
  }

  function openChunk(f) {
    const view = state.view, i = state.matches[state.at];
    const chunk = chunks(view, i)[f], panel = $("f-chunk");
    state.chunk = chunk ? f : null;
    for (const span of document.querySelectorAll("#f-text-box .chunk")) {
      span.setAttribute("aria-expanded", String(Number(span.dataset.fork) === state.chunk));
    }
    panel.replaceChildren();
    remember();
    if (!chunk) return;
    const row = rows(view)[i], end = chunk.position + chunk.length;
    const own = row[TOKENS].slice(chunk.position, end).map((t) => data.tokens[t]).join("");
    const asked = stages(view, "teach"), scores = stages(view, "score");
    const order = element("button", { type: "button", id: "f-order" }, `order: ${state.order}`);
    order.addEventListener("click", reorder);
    panel.append(element("div", { class: "chunk-head" },
      element("h3", {}, `Chunk ${f + 1}, tokens ${chunk.position} to ${end - 1}`),
      asked.length && scores.length ? order : null));
    panel.append(facts(measured(chunk)));
    const note = said(view, asked, scores);
    if (note) panel.append(element("p", { class: "note" }, note));
    if (!asked.length) return;
    const text = element("div", { class: "text", "data-label": "the student's chunk" });
    written(text, own);
    if (end === row[TOKENS].length && row[ENDED]) text.append(element("span", { class: "end", "data-end": "" }));
    const side = element("div");
    for (const cell of asked) {
      const of = scores.find((score) => score.teacher === cell.teacher);
      const name = cell.teacher || data.arms[view.arm].teacher;
      side.append(element("div", { class: "teacher" },
        element("h4", {}, `${cell.rows[i][f].length} continuations${name ? ` of ${name}` : ""}`),
        continuations(cell, of, i, f, own)));
    }
    panel.append(element("div", { class: "sides" }, text, side));
  }

  function measured({ entropy, similarity, prior }) {
    const found = [["entropy", `${entropy.toFixed(2)} nats`]];
    if (similarity !== null) found.push(["mean similarity", similarity.toFixed(3)]);
    if (prior.length) {
      const [n, k, bar, hat, sd] = prior;
      found.push(["k_sem", k.toFixed(3)], ["n", String(n)], ["pi_bar", bar.toFixed(3)],
        ["pi_hat ± sd", `${hat.toFixed(3)} ± ${sd.toFixed(3)}`]);
    }
    return found;
  }

  function said(view, asked, scores) {
    if (data.arms[view.arm].shuffled && scores.length) {
      return "Shuffled scores: the similarities beside these continuations are another fork's.";
    }
    if (!asked.length) return "This arm asks no teacher at its chunks.";
    return scores.length ? "" : "This arm does not score the continuations.";
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
    $("f-count").textContent = total
      ? `${state.at + 1} of ${total} that match, of ${all} shown`
      : `0 match, of ${all} shown`;
    $("f-prev").disabled = !total || state.at === 0;
    $("f-next").disabled = !total || state.at === total - 1;
    for (const [n, item] of [...$("f-list").children].entries()) {
      item.firstChild.setAttribute("aria-current", String(n === state.at));
      if (n === state.at) within_list(item);
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
    response(state.view, i);
    openChunk(chunk);
  }

  function within_list(item) {  // without moving the page
    const list = $("f-list"), top = item.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    const over = top + item.offsetHeight - list.clientHeight;
    if (over > list.scrollTop) list.scrollTop = over;
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
      ? `Shows ${shown.length} of ${total} responses, drawn by their ids, as many correct as wrong.${shares}`
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
      ` ${data.highest.toFixed(1)} nats${chunk}`);
  }

  // ---- the address

  function remember() {
    const row = state.matches.length ? rows(state.view)[state.matches[state.at]] : null;
    const parts = [state.view.arm, state.view.seed, state.view.round, row ? row[ID] : ""];
    if (state.chunk !== null) parts.push(chunks(state.view, state.matches[state.at])[state.chunk].position);
    const hash = `#forks/${parts.map(encodeURIComponent).join("/")}`;
    if (state.moved && location.hash !== hash) history.replaceState(null, "", hash);
  }

  function recall() {
    const [name, ...parts] = location.hash.slice(1).split("/");
    if (name !== "forks" || !parts.length) return false;
    const [arm, seed, round, id, position] = parts.map(decodeURIComponent);
    $("f-filters").reset();
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
    const typing = event.target.closest?.("input, select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const inside = event.target.closest?.("#browser");
    const elsewhere = event.target !== document.body && !inside;
    const arrow = inside && ["ArrowRight", "ArrowLeft"].includes(event.key);
    if (elsewhere || !(arrow || ["j", "k", "n", "s", "?"].includes(event.key))) return;
    event.preventDefault();
    state.moved = true;
    const found = state.matches.length ? chunks(state.view, state.matches[state.at]).length : 0;
    if (event.key === "?") { document.querySelector(".help").classList.add("told"); document.querySelector(".help").scrollIntoView({ block: "center" }); }
    else if (event.key === "s") { if ($("f-order")) reorder(); }
    else if (event.key === "n") { if (found) openChunk(state.chunk === null ? 0 : (state.chunk + 1) % found); }
    else step(event.key === "j" || event.key === "ArrowRight" ? 1 : -1);
  }

  function step(by) {
    const to = state.at + by;
    if (to >= 0 && to < state.matches.length) show(to);
  }

  const moved = (act) => (...given) => { state.moved = true; act(...given); };
  data.highest = Math.max(1, Math.ceil(Math.max(...data.views.flatMap((v) => rows(v))
    .map((row) => row[ENTROPIES].reduce((a, b) => Math.max(a, b), 0))) / 50) / 2);
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
  $("f-seed-label").hidden = unique(data.views.map((v) => v.seed)).length === 1;
  if (!recall()) { choose(); show(0, 0); }
})();
