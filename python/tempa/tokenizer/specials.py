"""Special tokens by name: those of tokenizers made here, and of tiktoken's encodings."""

END_OF_TEXT = "<|endoftext|>"
# The specials of a tokenizer made here: the end of a document, and the marks of the chat template.
DEFAULT_SPECIALS = (END_OF_TEXT, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

# The special tokens that tiktoken's encodings add to their rank files.
TIKTOKEN_SPECIALS: dict[str, dict[str, int]] = {
    "gpt2": {END_OF_TEXT: 50256},
    "cl100k": {
        END_OF_TEXT: 100257,
        "<|fim_prefix|>": 100258,
        "<|fim_middle|>": 100259,
        "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276,
    },
    "o200k": {END_OF_TEXT: 199999, "<|endofprompt|>": 200018},
}
