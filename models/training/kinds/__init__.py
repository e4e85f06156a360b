"""The kinds of text in the corpus.

Each module has two functions of a random source: `plain(rng)` returns a
document, `chat(rng)` returns a request and its answer.
"""

from . import arithmetic, questions, recipe, records, story, weather

KINDS = {
    "story": story,
    "arithmetic": arithmetic,
    "weather": weather,
    "recipe": recipe,
    "json": records,
    "questions": questions,
}
