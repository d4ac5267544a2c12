"use strict";
// The answers view: what two students, as base and a trained arm, wrote for each problem.
(() => {
  const data = JSON.parse(document.getElementById("answers-data").textContent);
  if (!data) return;
  const $ = (id) => document.getElementById(id);
  const { element } = page;
  const PAGE = 12;  // problems at a time
  const TEXT = 0, FINAL = 1, FLAGS = 2, TOKENS = 3;
  const CASES = { right: "now right", wrong: "now wrong", "both-right": "both right", "both-wrong": "both wrong" };
  const ORDER = Object.keys(CASES);  // that of a tally
  const TONES = { right: "good", wrong: "bad" };
  const state = { view: null, found: [], page: 0 };

  const right = (answer) => answer[FLAGS] % 2 === 1;
  const plain = (i) => i < 0 ? "" : typeof data.texts[i] === "string" ? data.texts[i]
    : `${data.texts[i][0]}${data.texts[i][2]}`;

  function caseOf(before, after) {
    if (right(before)) return right(after) ? "both-right" : "wrong";
    return right(after) ? "right" : "both-wrong";
  }

  // ---- which problems

  const unique = (values) => [...new Set(values)];
  const bound = (id, otherwise) => $(id).value === "" ? otherwise : Number($(id).value);

  function pairs() {  // of the chosen arm, seed and kind: every problem that both were asked
    const kind = Number($("a-kind").value), base = data.bases[state.view.base];
    return data.problems.flatMap((problem, i) => {
      const before = base[i][kind], after = state.view.answers[i][kind];
      return before && after ? [{ problem, before, after, case: caseOf(before, after) }] : [];
    });
  }

  function fits(pair, want) {
    if (want.task !== "" && pair.problem[1] !== Number(want.task)) return false;
    if (want.case === "changed") {
      if (pair.before[FINAL] === pair.after[FINAL]) return false;
    } else if (want.case !== "" && pair.case !== want.case) return false;
    if (pair.after[TOKENS] < want.least || pair.after[TOKENS] > want.most) return false;
    if (want.text === "") return true;
    const texts = [pair.problem[0], ...[pair.problem[2], pair.problem[3], pair.before[TEXT], pair.after[TEXT]].map(plain)];
    return texts.some((text) => text.toLowerCase().includes(want.text));
  }

  function find() {
    const want = {
      task: $("a-task").value, case: $("a-case").value, text: $("a-text").value.toLowerCase(),
      least: bound("a-min", -Infinity), most: bound("a-max", Infinity),
    };
    const all = pairs();
    state.found = all.filter((pair) => fits(pair, want));
    const by = {
      longest: (one, other) => other.after[TOKENS] - one.after[TOKENS],
      shortest: (one, other) => one.after[TOKENS] - other.after[TOKENS],
      grown: (one, other) => (other.after[TOKENS] - other.before[TOKENS]) - (one.after[TOKENS] - one.before[TOKENS]),
    }[$("a-order").value];
    if (by) state.found.sort(by);
    tell(all);
    show(0);
  }

  // ---- what is shown

  function show(to) {
    const pages = Math.max(1, Math.ceil(state.found.length / PAGE));
    state.page = Math.max(0, Math.min(to, pages - 1));
    const first = state.page * PAGE, shown = state.found.slice(first, first + PAGE);
    $("a-list").replaceChildren(...shown.map((pair, i) => row(pair, i === 0)));
    $("a-list").start = first + 1;
    for (const box of $("a-list").querySelectorAll(".text")) {
      if (box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;  // for keys to scroll it
    }
    const total = state.found.length, all = data.problems.length;
    $("a-count").textContent = !total ? `0 match, of ${all}`
      : `${first + 1} to ${first + shown.length} of ${total}${total < all ? ` that match, of ${all}` : ""}`;
    $("a-prev").disabled = state.page === 0;
    $("a-next").disabled = state.page === pages - 1;
    $("a-none").hidden = total > 0;
  }

  function text(i) {
    const found = data.texts[i];
    if (typeof found === "string") return [found];
    const [begin, left, end] = found;
    return [begin, element("span", { class: "cut" }, ` ${left.toLocaleString("en")} characters left out here `), end];
  }

  function side(name, answer) {
    const end = answer[FLAGS] >= 2 ? " · cut off at the limit" : "";
    const mark = element("span", { class: `sign ${right(answer) ? "right" : "wrong"}` }, right(answer) ? "✓ right" : "✗ wrong");
    const final = answer[FINAL] < 0 ? "no final answer" : `final answer ${short(plain(answer[FINAL]))}`;
    const box = element("div", { class: "text", role: "group", "aria-label": `answer of ${name}` });
    if (answer[TEXT] >= 0) box.append(...text(answer[TEXT]));
    return element("div", { class: "side" },
      element("p", { class: "side-head" }, element("b", {}, name), " ", mark),
      box, element("p", { class: "note" }, `${final} · ${answer[TOKENS]} tokens${end}`));
  }

  const short = (value) => {
    const line = value.replace(/\s+/g, " ").trim();
    return line.length > 60 ? `${line.slice(0, 60)}…` : line;
  };

  function row({ problem, before, after, case: kind }, first) {
    const [id, task, asked, wanted] = problem;
    const badge = element("span", { class: `badge ${TONES[kind] ?? ""}` }, CASES[kind]);
    const box = element("div", { class: "text", role: "group", "aria-label": "problem" });
    box.append(...(asked < 0 ? ["The problem's text is not in this project."] : text(asked)));
    const where = data.tasks.length > 1 ? ` · ${data.tasks[task]}` : "";
    return element("li", { tabindex: first ? "0" : "-1", "data-problem": id, "data-case": kind },
      element("div", { class: "side" },
        element("p", { class: "side-head" }, badge, " ", element("code", {}, `${id}${where}`)),
        box, wanted < 0 ? null : element("p", { class: "note" }, `wanted ${short(plain(wanted))}`)),
      side(state.view.versus, before), side(state.view.arm, after));
  }

  function tell(all) {
    const kind = Number($("a-kind").value), name = data.kinds[kind];
    const counts = state.view.tally[kind].map((count, i) => `${count} ${CASES[ORDER[i]]}`).join(", ");
    $("a-tally").textContent = `Of all ${data.total} problems, ${name} after round ${state.view.round}: ${counts}.`;
    const sampled = all.length < data.total
      ? `Shows ${all.length} of ${data.total} problems, drawn by their ids alone: the same for every arm and seed.`
      : `Shows all ${data.total} problems.`;
    const left = data.left.length ? ` Seeds ${data.left.join(", ")} are not here: all would not fit into a page.` : "";
    $("a-sample").textContent = sampled + left;
  }

  // ---- choosing

  function options(select, values, chosen) {
    select.replaceChildren(...values.map(([value, name]) => element("option", { value }, String(name))));
    const known = values.some(([value]) => String(value) === String(chosen));
    select.value = known ? chosen : values[0][0];
  }
  const own = (values) => values.map((value) => [value, value]);

  function choose() {
    options($("a-arm"), own(unique(data.views.map((v) => v.arm))), $("a-arm").value);
    const views = data.views.filter((v) => v.arm === $("a-arm").value);
    options($("a-seed"), own(views.map((v) => v.seed)), $("a-seed").value);
    state.view = views.find((v) => String(v.seed) === $("a-seed").value);
    find();
  }

  function keys(event) {
    const item = event.target.closest?.("li");
    if (event.ctrlKey || event.metaKey || event.altKey || !item) return;
    const inside = event.target !== item;  // a long text, which arrows scroll
    const items = [...$("a-list").children], at = items.indexOf(item);
    const go = (to) => () => items[to] && focus(items, to);
    const turn = (by) => () => { show(state.page + by); focus([...$("a-list").children], 0); };
    const act = {
      j: go(at + 1), k: go(at - 1),
      ...(inside ? {} : {
        ArrowDown: go(at + 1), ArrowUp: go(at - 1), ArrowRight: turn(1), ArrowLeft: turn(-1),
      }),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  function focus(items, at) {
    items.forEach((item, i) => { item.tabIndex = i === at ? 0 : -1; });
    items[at]?.focus();
  }

  options($("a-kind"), data.kinds.map((name, i) => [i, name]));
  options($("a-task"), [["", "all"], ...data.tasks.map((name, i) => [i, name])]);
  $("a-task-label").hidden = data.tasks.length === 1;
  $("a-seed-label").hidden = unique(data.views.map((v) => v.seed)).length === 1;
  for (const id of ["a-arm", "a-seed"]) $(id).addEventListener("change", choose);
  $("a-filters").addEventListener("input", (event) => {
    if (!["a-arm", "a-seed"].includes(event.target.id)) find();
  });
  $("a-filters").addEventListener("reset", (event) => {  // the arm and the seed stay
    event.preventDefault();
    for (const id of ["a-task", "a-case", "a-order", "a-text", "a-min", "a-max"]) $(id).value = "";
    find();
  });
  $("a-filters").addEventListener("submit", (event) => event.preventDefault());
  $("a-prev").addEventListener("click", () => show(state.page - 1));
  $("a-next").addEventListener("click", () => show(state.page + 1));
  $("a-list").addEventListener("keydown", keys);
  choose();
})();
