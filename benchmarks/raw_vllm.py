"""vLLM as its own users call it: a process with an `LLM`, batches of prompts on standard input.

A line in: {"prompts": [[id, ...], ...], "max_tokens", "ends", "seeds": [...] or null,
"logprobs": bool}.
A line out, on the descriptor named on the command line: seconds of `LLM.generate` and tokens.
"""

import json
import os
import sys
import time


def main() -> None:
    from vllm import LLM, SamplingParams

    folder, out = sys.argv[1], os.fdopen(int(sys.argv[2]), "w")
    llm = LLM(
        model=folder,
        dtype="float32",
        enforce_eager=True,
        enable_chunked_prefill=False,  # as ours: seeded prompts crash it on a CPU
        generation_config="vllm",
        max_model_len=2048,
        kv_cache_memory_bytes=1 << 30,  # as ours
        seed=0,
    )
    for line in sys.stdin:
        asked = json.loads(line)
        prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
        sampling = [
            SamplingParams(
                temperature=1.0,
                max_tokens=asked["max_tokens"],
                stop_token_ids=asked["ends"],
                seed=seed,
                logprobs=0 if asked["logprobs"] else None,
            )
            for seed in asked["seeds"] or [None] * len(prompts)
        ]
        begin = time.perf_counter()
        found = llm.generate(prompts, sampling, use_tqdm=False)
        taken = time.perf_counter() - begin
        tokens = [list(one.outputs[0].token_ids) for one in found]
        out.write(json.dumps({"seconds": taken, "tokens": tokens}) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
