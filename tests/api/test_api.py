"""The functions of pipeline.api, beside what the stages make of the same evidence."""

import re

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from pipeline import api
from pipeline.core.errors import UserError
from pipeline.method import similarity
from tests.project import ROOT

CHUNKS = ["12+3", "=15.", "   4"]
TEXTS = [["12+3", "12+4"], ["=16.", "=25."], ["4444", "4"]]
LOGPROBS = [[-0.1, -0.2], [-1.0], [-2.0, -0.5, -0.1]]


@pytest.mark.parametrize("metric", ["edit", "exact"])
@pytest.mark.parametrize("weight", ["posterior", "excess", "excess-posterior"])
def test_weights_are_those_of_the_formulas(metric, weight):
    found = api.weights(CHUNKS, TEXTS, LOGPROBS, metric, 2.0, weight)
    share, hat = [], []
    for chunk, texts, logprobs in zip(CHUNKS, TEXTS, LOGPROBS, strict=True):
        pairs = [similarity.Pair(chunk, False, text, False) for text in texts]
        k = sum(similarity.similarities(pairs, metric))
        share.append(k / 2)
        hat.append((k + 2.0 * np.exp(np.mean(logprobs))) / 4)
    q = np.array(hat if weight.endswith("posterior") else share)
    wanted = q if weight == "posterior" else np.maximum(0, q - q.mean()) / (1 - q.mean())
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_forks_are_the_peaks_of_entropy_a_chunk_apart():
    entropies = [0.1, 3.0, 2.9, 0.2, 0.1, 2.0, 0.1, 1.0]
    assert api.forks(entropies, most=2, chunk=2) == [1, 5]
    assert api.forks(entropies, most=9, chunk=2) == [1, 3, 5]
    assert api.forks(entropies, most=1, chunk=2, eligible=lambda t: t != 1) == [2]
    assert api.forks([1.0], most=1, chunk=2) == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: api.forks([1.0, float("nan")]), "wanted (T,), all finite"),
        (lambda: api.forks([1.0], most=0), "wanted at least 1 of each"),
        (lambda: api.weights(CHUNKS, TEXTS[:2], LOGPROBS), "found 3 chunks, 2 lists"),
        (lambda: api.weights(CHUNKS, [*TEXTS[:2], ["4"]], LOGPROBS), "of [1, 2] texts"),
        (lambda: api.weights(CHUNKS, TEXTS, LOGPROBS, "token-edit"), "wanted one of exact, edit"),
        (lambda: api.weights(CHUNKS, TEXTS, LOGPROBS, weight="all"), "wanted one of posterior"),
    ],
)
def test_wrong_evidence_is_refused(call, said):
    with pytest.raises(UserError, match=re.escape(said)):
        call()


def test_the_page_of_the_docs_runs_and_its_loss_has_a_gradient():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    names = {}
    exec(code, names)  # a page of ours
    assert len(names["starts"]) == 3
    assert torch.isfinite(names["loss"])
    gradient = sum(float(p.grad.abs().sum()) for p in names["student"].parameters())
    assert gradient > 0
    logp = names["logits"][0, :-1].log_softmax(-1)
    ids = names["batch"]["input_ids"][0, 1:]
    own = logp.gather(1, ids[:, None])[:, 0]
    row = names["batch"]
    outside = (row["labels"] != -100) & (row["signal_mask"] == 0)
    assert torch.equal(row["anchor_mask"].bool(), outside)  # kl_scope: outside, the default
    signal = -(row["weights"][0, 1:] * row["signal_mask"][0, 1:] * own).sum()
    assert names["loss"].item() == pytest.approx(signal.item(), rel=1e-5)  # KL to itself is 0


def test_the_notebook_runs_and_says_what_it_shows():
    """A student that learns, beside one whose weights were shuffled."""
    path = ROOT / "docs/own_trainer.ipynb"
    shown = nbformat.read(path, 4)
    found = nbformat.read(path, 4)
    where = {"metadata": {"path": str(ROOT)}}
    NotebookClient(found, timeout=600, resources=where).execute()
    for notebook in (shown, found):
        last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
        said = "".join(one["text"] for one in last.outputs if one.output_type == "stream")
        before, after, shuffled = (float(x) for x in re.findall(r"([\d.]+)%", said))
        assert after > before + 10 > shuffled
        assert [one for one in last.outputs if one.output_type == "display_data"]
