"""calibrate: what the teacher's answers can tell, before trusting what is trained on them.

reads   rollouts, forks, answers, the student's tokenizer; no teacher is asked
writes  calibration  one row per metric, chunk length and quantity (pipeline/calibration)
source  none: a check of arXiv 2606.01476. A metric whose similarities at the own fork are those
        at another fork of the same response scores the topic and predicts no learning.
"""

import pyarrow as pa
from tokenizers import Tokenizer
from tqdm import tqdm

from pipeline.calibration import Row, measures, pairs, placement, sample, warns
from pipeline.calibration.measures import Measured
from pipeline.calibration.problems import Problems
from pipeline.calibration.sample import Response
from pipeline.config import params
from pipeline.config.method import Placed, Tried
from pipeline.data import schemas, tables
from pipeline.engines import checkpoints
from pipeline.stage import cells


class CalibrateParams(Tried, Placed):
    lengths: tuple[params.Count, ...]  # chunk lengths that are tried, at most chunk_tokens
    samples: params.Count  # N
    teacher: str
    seed: int
    round: params.Count

    @property
    def names(self) -> tuple[int | str, ...]:
        """The names that every random choice belongs to."""
        return (self.seed, "calibrate", self.round)


def calibrate(responses: list[Response], tokenizer: Tokenizer, p: CalibrateParams) -> list[Row]:
    """The rows of the table; none where no response has a fork."""
    if not responses:
        return []
    problems = Problems([response.problem for response in responses])
    cut = {n: pairs.shortened(responses, n, p.chunk_tokens, tokenizer) for n in p.lengths}
    asked = {tokens: pairs.compare(short, *p.names) for tokens, short in cut.items()}
    rows: list[Row] = []
    for metric in tqdm(p.metrics, desc="calibrate", unit="metric", disable=None):
        found = pairs.measure(asked.values(), metric, tokenizer)
        for tokens, values in zip(p.lengths, found, strict=True):
            about = (metric, tokens, p.samples, p.alphas, cut[tokens])
            measured = Measured(*about, asked[tokens], values, problems)
            rows += measures.rows(measured, *p.names)
    where = (p.chunk_tokens, p.max_forks, p.scheduler, p.seed, p.round)
    return [*rows, *placement.rows(responses, problems, tokenizer, *where)]


@cells.entry
def main() -> None:
    args = cells.arguments("calibrate", "rollouts", "forks", "answers", "tokenizer")
    p = cells.params("calibrate", args.cell, CalibrateParams)
    with cells.running("calibrate", args) as run:
        tokenizer = checkpoints.tokenizer(args.tokenizer)
        chosen = sample.choose(args.rollouts, args.forks, p.forks, *p.names)
        paths = (args.rollouts, args.forks, args.answers)
        rows = calibrate(sample.read(paths, chosen, p.samples, tokenizer), tokenizer, p)
        for row in rows:
            if row["quantity"] == "recommended" and row["note"]:
                cells.log.info(f"calibrate, teacher {p.teacher}: {row['note']}")
            if warns(row):
                cells.log.warning(f"calibrate, teacher {p.teacher}: {row['note']}")
        table = pa.Table.from_pylist(rows, schema=schemas.CALIBRATION)
        tables.write(table, args.out / "calibration.parquet", schemas.CALIBRATION)
        run.rows_in, run.rows_out = tables.rows(args.forks, schemas.FORKS), len(rows)


if __name__ == "__main__":
    main()
