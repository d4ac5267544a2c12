"use strict";
// How the fork browser shows texts. All that a model wrote goes in as text nodes, never as markup.
const forkView = (() => {
  if (!forkData) return null;
  const { data, TOKENS, ENTROPIES, ENDED, highest, stages, rows, chunks, limits, fits } = forkData;

  const { element } = page;

  function written(target, text) {  // spaces and line ends can be seen; the text stays the same
    for (const part of text.split(/( |\n)/)) {
      if (part === " ") target.append(element("span", { class: "sp" }, " "));
      else if (part === "\n") target.append(element("span", { class: "nl" }, "\n"));
      else if (part !== "") target.append(part);
    }
    return target;
  }

  function token(row, t) {
    const nats = row[ENTROPIES][t] / 100;
    const text = data.tokens[row[TOKENS][t]];
    const share = Math.sqrt(nats / highest);
    const made = element("span", { class: "tok", title: `token ${t}: ${nats.toFixed(2)} nats` });
    made.style.backgroundColor = `rgba(var(--heat), calc(var(--heat-most) * ${share.toFixed(3)}))`;
    const last = t === row[TOKENS].length - 1;
    if (text === "" && last && row[ENDED]) {
      made.classList.add("end");
      made.setAttribute("role", "img");  // only what has a role may have a label
      made.setAttribute("aria-label", "end of the response");
      return made;
    }
    return written(made, text);
  }

  function response(box, view, i, want) {
    const row = rows(view)[i], found = chunks(view, i);
    box.replaceChildren();
    let t = 0;
    for (const chunk of found) {
      for (; t < chunk.position; t += 1) box.append(token(row, t));
      const label = `chunk ${chunk.f + 1} of ${found.length}, tokens ${chunk.position} to `
        + `${chunk.position + chunk.length - 1}, entropy ${chunk.entropy.toFixed(2)} nats`
        + (chunk.similarity === null ? "" : `, mean similarity ${chunk.similarity.toFixed(2)}`);
      const span = element("span", {
        class: "chunk", role: "button", tabindex: "0", "aria-expanded": "false",
        "aria-label": label, "data-fork": chunk.f,
      });
      if (limits(want) && !fits(chunk, want)) span.classList.add("no-match");
      for (; t < chunk.position + chunk.length; t += 1) span.append(token(row, t));
      box.append(span);
    }
    for (; t < row[TOKENS].length; t += 1) box.append(token(row, t));
  }

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

  function continuations(cell, scores, i, f, chunk, order) {
    const found = cell.rows[i][f].map((code, sample) => ({
      sample, text: data.texts[code >> 1], ended: code % 2 === 1,
      similarity: scores?.rows[i][f].length ? scores.rows[i][f][sample + 1] / 1000 : null,
    }));
    const scored = found.some((one) => one.similarity !== null);
    if (order === "similarity" && scored) {
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
      if (one.ended) said.append(ending("the teacher ended here"));
      item.append(said);
      list.append(item);
    }
    return list;
  }

  // what is known of chunk f of response i; `order` is the button that sorts the continuations
  function chunkPanel(view, i, f, order, by) {
    const row = rows(view)[i], chunk = chunks(view, i)[f], end = chunk.position + chunk.length;
    const own = row[TOKENS].slice(chunk.position, end).map((t) => data.tokens[t]).join("");
    const asked = stages(view, "teach"), scores = stages(view, "score");
    const panel = [
      element("div", { class: "chunk-head" },
        element("h3", {}, `Chunk ${f + 1}, tokens ${chunk.position} to ${end - 1}`),
        asked.length && scores.length ? order : null),
      facts(measured(chunk, data.arms[view.arm].metric)),
    ];
    if (chunk.prior.length) panel.push(weight(chunk.prior));
    const note = said(view, asked, scores);
    if (note) panel.push(element("p", { class: "note" }, note));
    if (!asked.length) return panel;
    const text = element("div", { class: "text", "data-label": "the student's chunk" });
    written(text, own);
    if (end === row[TOKENS].length && row[ENDED]) text.append(ending("the student ended here"));
    const side = element("div");
    for (const cell of asked) {
      const of = scores.find((score) => score.teacher === cell.teacher);
      const name = cell.teacher || data.arms[view.arm].teacher;
      side.append(element("div", { class: "teacher" },
        element("h4", {}, `${cell.rows[i][f].length} continuations${name ? ` of ${name}` : ""}`),
        continuations(cell, of, i, f, own, by)));
    }
    return [...panel, element("div", { class: "sides" }, text, side)];
  }

  function weight([, , bar, hat, sd]) {  // the posterior on a scale from 0 to 1
    const at = (share) => `${(100 * Math.max(0, Math.min(1, share))).toFixed(1)}%`;
    const marks = [["bar", hat - sd], ["prior", bar], ["dot", hat]].map(([name, share]) => {
      const made = element("i", { class: name });
      made.style.left = at(share);
      return made;
    });
    marks[0].style.width = `${100 * (Math.min(1, hat + sd) - Math.max(0, hat - sd))}%`;
    return element("div", { class: "weight" }, element("span", {}, "0"),
      element("span", { class: "forest", role: "img", "aria-label": "the posterior on a scale from 0 to 1" }, ...marks),
      element("span", {}, "1"), element("small", {}, "❙ pi_hat ± sd    ○ pi_bar, the student's own confidence"));
  }

  function ending(title) {
    return element("span", { class: "end", title });
  }

  function measured({ entropy, similarity, prior }, metric) {
    const found = [["entropy", `${entropy.toFixed(2)} nats`]];
    if (similarity !== null) found.push([`mean similarity, ${metric}`, similarity.toFixed(3)]);
    if (prior.length) {
      const [n, k, bar, hat, sd, weight] = prior;
      found.push(["k_sem", k.toFixed(3)], ["n", String(n)], ["pi_bar", bar.toFixed(3)],
        ["pi_hat ± sd", `${hat.toFixed(3)} ± ${sd.toFixed(3)}`], ["weight", weight.toFixed(3)]);
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

  return { element, written, response, chunkPanel };
})();
