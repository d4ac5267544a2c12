"""The columns of the tables between the stages: their names, types and units."""

import pyarrow as pa


def column(name: str, type_: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=nullable)


PROMPTS = pa.schema(
    [
        column("prompt_id", pa.string()),
        column("task", pa.string()),
        column("split", pa.string()),  # train, dev, test
        column("messages", pa.string()),  # JSON list of {role, content}
        column("prompt", pa.string()),  # the problem as plain text
        column("answer", pa.string()),
    ]
)
ROLLOUTS = pa.schema(
    [
        column("rollout_id", pa.string()),
        column("prompt_id", pa.string()),
        column("sample", pa.int32()),
        column("round", pa.int32()),
        column("prompt_token_ids", pa.list_(pa.int32())),
        column("token_ids", pa.list_(pa.int32())),  # ends with an end iff finish_reason is stop
        column("logprobs", pa.list_(pa.float32())),  # nats, of the untempered round's checkpoint
        column("entropies", pa.list_(pa.float32())),  # nats, of the distribution that made token t
        column("text", pa.string()),  # without special tokens
        column("finish_reason", pa.string()),  # stop, length
        column("reward", pa.float32(), nullable=True),  # null without a checker
    ]
)
FORKS = pa.schema(
    [
        column("rollout_id", pa.string()),
        column("fork", pa.int32()),
        column("position", pa.int32()),  # index into token_ids; the chunk starts here
        column("length", pa.int32()),  # tokens of the chunk, C
        column("entropy", pa.float32()),  # nats
        column("prefix_text", pa.string()),
        column("chunk_text", pa.string()),
        column("ended", pa.bool_()),  # the chunk holds the response's end
    ]
)
ANSWERS = pa.schema(
    [
        column("rollout_id", pa.string()),  # prompt_id for full solutions (sft)
        column("position", pa.int32()),
        column("sample", pa.int32()),
        column("teacher", pa.string()),
        column("text", pa.string()),  # cut to C student tokens
        column("ended", pa.bool_()),  # the teacher's end lies within the cut
        column("finish_reason", pa.string()),  # stop, length; of the cut text
        column("model_returned", pa.string()),
        column("prompt_tokens", pa.int32()),
        column("completion_tokens", pa.int32()),  # of the cut text
        column("request_key", pa.string()),
        # the student's own, of complete characters, behind the prefix; without the end
        column("token_ids", pa.list_(pa.int32())),
    ]
)
SCORES = pa.schema(
    [
        column("rollout_id", pa.string()),
        column("position", pa.int32()),
        column("sample", pa.int32()),
        column("teacher", pa.string()),
        column("metric", pa.string()),
        column("similarity", pa.float64()),  # in [0, 1]
    ]
)
TARGETS = pa.schema(
    [
        column("rollout_id", pa.string()),
        column("position", pa.int32()),
        column("length", pa.int32()),  # tokens
        column("n", pa.int32()),  # teacher continuations behind k_sem
        column("k_sem", pa.float64()),  # sum of the n similarities
        column("pi_bar", pa.float64()),  # geometric mean token probability of the chunk
        column("pi_hat", pa.float64()),  # posterior mean, in [0, 1]
        column("posterior_sd", pa.float64()),
        column("weight", pa.float64()),  # the chunk's in the loss, in [0, 1]; see prior.weight
    ]
)
STEP = column("step", pa.int32())  # last column of a cell of several steps, from 1
EVALS = pa.schema(
    [
        column("task", pa.string()),
        column("problem_id", pa.string()),
        column("sample", pa.int32()),
        column("decoding", pa.string()),  # greedy, sampled
        column("response", pa.string()),
        column("extracted", pa.string(), nullable=True),  # null: no final answer found
        column("correct", pa.bool_()),
        column("finish_reason", pa.string()),
        column("tokens", pa.int32()),
    ]
)
CALIBRATION = pa.schema(
    [
        column("metric", pa.string(), nullable=True),  # null: the row says something of the forks
        column("chunk_tokens", pa.int32()),  # both texts were cut to so many student tokens
        column("quantity", pa.string()),  # listed in pipeline/calibration/__init__.py
        column("bin", pa.float64(), nullable=True),  # where on a profile, or which alpha
        column("value", pa.float64(), nullable=True),  # null: cannot be told, the note says why
        column("low", pa.float64(), nullable=True),  # 95 % bootstrap interval over problems
        column("high", pa.float64(), nullable=True),
        column("n", pa.int32()),  # forks, states, responses or pairs behind the value
        column("note", pa.string(), nullable=True),
    ]
)
