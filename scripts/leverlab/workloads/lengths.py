"""The lengths of ShareGPT, for machines without the file.

The table counts the first two turns (prompt and answer) of the first 17,671 conversations of
ShareGPT_V3_unfiltered_cleaned_split.json (data set anon8231489123/ShareGPT_Vicuna_unfiltered), of which 15,585 pass the
filter of vLLM's benchmark (`vllm bench serve --dataset-name sharegpt`: both at least 4 tokens, prompt at most 1024,
together at most 2048). Tokens are those of Mistral's Tekken tokenizer of 2024-09, whose vocabulary of 131,072 is as large
as Llama 3's. Its means, 223 prompt and 206 output tokens, compare with the 215 and 198 that logs of that benchmark
publish for Llama 3.1 ("Total input tokens: 215196", "Total generated tokens: 198343", of 1000 requests).

Both lengths are counted together, because they are not independent: the longer the prompt, the shorter the answer (the
correlation of their logarithms is -0.45). A fitted pair of lognormals has neither that nor the two humps that each has.
"""

from typing import Final

from leverlab.workloads.stream import Stream

PROMPT_EDGES: Final = (4, 11, 17, 26, 48, 105, 214, 319, 436, 620, 771, 880, 1025)
"""Bins of the prompt's tokens: deciles, 95 %, 99 %; each holds its lower edge and not its upper one."""

OUTPUT_EDGES: Final = (4, 11, 20, 36, 75, 135, 211, 281, 360, 504, 655, 834, 1876)
"""The same of the output's tokens."""

COUNTS: Final = (
    (37, 48, 88, 132, 232, 226, 227, 198, 106, 50, 35, 4),
    (8, 23, 62, 106, 218, 255, 296, 273, 223, 79, 55, 5),
    (12, 37, 62, 87, 187, 213, 263, 267, 249, 110, 81, 10),
    (21, 24, 86, 126, 159, 207, 237, 259, 266, 148, 95, 10),
    (49, 58, 90, 128, 152, 175, 181, 199, 280, 141, 99, 22),
    (168, 175, 139, 151, 153, 158, 142, 119, 172, 79, 85, 29),
    (284, 285, 221, 224, 126, 101, 67, 59, 83, 42, 46, 23),
    (295, 327, 267, 236, 103, 68, 50, 70, 67, 35, 26, 16),
    (298, 319, 270, 225, 127, 68, 49, 57, 40, 41, 42, 17),
    (148, 170, 125, 120, 46, 39, 15, 26, 35, 26, 28, 4),
    (154, 123, 110, 70, 45, 28, 11, 12, 26, 14, 17, 14),
    (19, 10, 3, 4, 16, 23, 13, 16, 19, 14, 19, 3),
)
"""Conversations by bin of the prompt (row) and of the output (column)."""


def sharegpt_lengths(stream: Stream, count: int, maximum_prompt: int, maximum_total: int) -> list[tuple[int, int]]:
    """`count` pairs of prompt and output tokens: a bin by its count, then evenly within it; drawn again past a limit."""
    columns = len(OUTPUT_EDGES) - 1
    weights = [count for row in COUNTS for count in row]
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        row, column = divmod(stream.weighted(weights), columns)
        prompt = stream.between(PROMPT_EDGES[row], PROMPT_EDGES[row + 1] - 1)
        output = stream.between(OUTPUT_EDGES[column], OUTPUT_EDGES[column + 1] - 1)
        if prompt <= maximum_prompt and prompt + output <= maximum_total:
            pairs.append((prompt, output))
    return pairs
