"""Trains the byte-level BPE tokenizer and writes it with its chat template."""

import json
from itertools import islice
from pathlib import Path

from corpus import END_OF_TEXT, TURN_END, TURN_START, documents
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB_SIZE = 2048
TRAINING_DOCUMENTS = 20_000
# A word with the space before it, one digit, punctuation, or white space. Digits
# stand alone, so that sums can be learned column by column.
WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
# Tools stand in the first turn, after the system message if there is one. A call
# is JSON with the arguments as an object; arguments that are text stay as they are.
CHAT_TEMPLATE = (
    "{% set own = messages[0]['role'] == 'system' %}"
    "{% if tools %}"
    "{{ '<|im_start|>system\\n' }}"
    "{% if own %}{{ messages[0]['content'] + '\\n' }}{% endif %}"
    "{{ 'Tools: ' }}{{ tools | map(attribute='function') | list | tojson }}{{ '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if tools and own and loop.first %}"
    "{% elif message['tool_calls'] %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['tool_calls'] | length > 1 %}{{ '[' }}{% endif %}"
    "{% for call in message['tool_calls'] %}"
    "{% set arguments = call['function']['arguments'] %}"
    "{{ '{\"name\": ' }}{{ call['function']['name'] | tojson }}{{ ', \"arguments\": ' }}"
    "{% if arguments is string %}{{ arguments }}{% else %}{{ arguments | tojson }}{% endif %}{{ '}' }}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}"
    "{% endfor %}"
    "{% if message['tool_calls'] | length > 1 %}{{ ']' }}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(seed: int) -> Tokenizer:
    """Returns a tokenizer trained on the first documents of the corpus with this seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for _, text in islice(documents(seed), TRAINING_DOCUMENTS))
    # Turn marks are special tokens; without them nothing is merged across turns.
    tokenizer.train_from_iterator((t.replace(TURN_START, " ").replace(TURN_END, " ") for t in texts), trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1024,
        "bos_token": None,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [TURN_START, TURN_END],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
