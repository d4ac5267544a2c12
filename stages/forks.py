"""forks: pick the positions where the student was least sure.

reads   rollouts, the student's tokenizer
writes  forks  at most max_forks rows per rollout, by position; none for a shorter response
source  arXiv 2606.01476, peak-entropy scheduler
"""

from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from tqdm import tqdm

from pipeline import cells, checkpoints, params, seeds, tables


class ForksParams(params.Forks):
    seed: int
    round: params.Count


def forks(rollouts: pa.Table, tokenizer: Tokenizer, p: ForksParams) -> pa.Table:
    """The forks of some rollouts, in their order."""
    found = [row for rollout in rollouts.to_pylist() for row in _forks(rollout, tokenizer, p)]
    return pa.Table.from_pylist(found, schema=tables.FORKS)


def _forks(rollout: dict[str, Any], tokenizer: Tokenizer, p: ForksParams) -> list[dict[str, Any]]:
    ids, text = rollout["token_ids"], rollout["text"]

    def prefix(end: int) -> str:
        return tokenizer.decode(ids[:end], skip_special_tokens=True)

    def eligible(start: int) -> bool:
        # a cut inside a character decodes to a replacement mark that the text does not have
        return bool(text.startswith(prefix(start)))

    rows = []
    for fork, position in enumerate(_positions(rollout, eligible, p)):
        end, before = position + p.chunk_tokens, prefix(position)
        rows.append(
            {
                "rollout_id": rollout["rollout_id"],
                "fork": fork,
                "position": position,
                "length": p.chunk_tokens,
                "entropy": rollout["entropies"][position],
                "prefix_text": before,
                "chunk_text": prefix(end)[len(before) :],
                "ended": end == len(ids) and rollout["finish_reason"] == "stop",
            }
        )
    return rows


def _positions(rollout: dict[str, Any], eligible: Any, p: ForksParams) -> list[int]:
    match p.scheduler:
        case "peak-entropy":
            from pipeline.schedulers import peak_entropy

            entropies = np.asarray(rollout["entropies"], np.float32)
            return peak_entropy.positions(entropies, p.max_forks, p.chunk_tokens, eligible)
        case "uniform":
            from pipeline.schedulers import uniform

            draw = seeds.generator(p.seed, "forks", p.round, rollout["rollout_id"])
            total = len(rollout["token_ids"])
            return uniform.positions(total, p.max_forks, p.chunk_tokens, eligible, draw)


@cells.entry
def main() -> None:
    args = cells.arguments("forks", "rollouts", "tokenizer")
    p = cells.params("forks", args.cell, ForksParams)
    with cells.running("forks", args) as run:
        tokenizer = checkpoints.tokenizer(args.tokenizer)
        total = tables.rows(args.rollouts, tables.ROLLOUTS)
        with (
            tqdm(total=total, desc="forks", disable=None) as progress,
            tables.writer(args.out / "forks.parquet", tables.FORKS) as out,
        ):
            for rollouts in tables.stream(args.rollouts, tables.ROLLOUTS):
                found = forks(rollouts, tokenizer, p)
                out.write_table(found)
                progress.update(rollouts.num_rows)
                run.rows_in, run.rows_out = run.rows_in + len(rollouts), run.rows_out + len(found)


if __name__ == "__main__":
    main()
