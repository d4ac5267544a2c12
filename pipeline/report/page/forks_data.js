"use strict";
// The fork browser's data: what was embedded, and which responses match the filters.
const forkData = (() => {
  const data = JSON.parse(document.getElementById("browser-data").textContent);
  const $ = (id) => document.getElementById(id);
  if (!data) return null;
  const ID = 0, PROMPT = 1, TOKENS = 2, ENTROPIES = 3, REWARD = 4, ENDED = 5;

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

  const entropies = data.views.flatMap(rows).map((row) => Math.max(0, ...row[ENTROPIES]) / 100);
  const highest = Math.max(0.5, Math.ceil(2 * entropies.reduce((a, b) => Math.max(a, b), 0)) / 2);
  return {
    data, $, ID, PROMPT, TOKENS, ENTROPIES, REWARD, ENDED, highest,
    stages, rows, isRight, textOf, mean, chunks, wanted, limits, fits, matching,
  };
})();
