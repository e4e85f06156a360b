"""Sums that come out right: direct, worked in steps, counted, and as word problems."""

from random import Random

from .story import NAMES

THINGS = "apples marbles books coins pencils eggs stamps shells cards plums".split()


def _addition(rng: Random) -> tuple[str, int, str]:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    steps = (
        f"Tens: {a // 10 * 10} + {b // 10 * 10} = {tens}. Ones: {a % 10} + {b % 10} = {ones}. "
        f"Together: {tens} + {ones} = {a + b}."
    )
    return f"{a} + {b}", a + b, steps


def _subtraction(rng: Random) -> tuple[str, int, str]:
    b, rest = rng.randint(0, 49), rng.randint(0, 50)
    a = b + rest
    tens = b // 10 * 10
    steps = f"Take away the tens: {a} - {tens} = {a - tens}. Take away the ones: {a - tens} - {b % 10} = {rest}."
    return f"{a} - {b}", rest, steps


def _multiplication(rng: Random) -> tuple[str, int, str]:
    a, b = rng.randint(1, 12), rng.randint(2, 5)
    sums = " + ".join([str(a)] * b)
    return f"{a} x {b}", a * b, f"That is {b} times {a}: {sums} = {a * b}."


def _table_entry(rng: Random) -> tuple[str, int, str]:
    a, b = rng.randint(1, 12), rng.randint(1, 12)
    return f"{a} x {b}", a * b, f"From the table of {a}: {a} x {b} = {a * b}."


def _problem(rng: Random) -> tuple[str, int, str]:
    return rng.choice([_addition, _addition, _subtraction, _subtraction, _multiplication, _table_entry])(rng)


def _word_problem(rng: Random) -> tuple[str, str]:
    he = rng.choice(["she", "he"])
    name, thing = rng.choice(NAMES[he]), rng.choice(THINGS)
    a, b = rng.randint(2, 50), rng.randint(2, 40)
    if rng.random() < 0.5:
        verb = rng.choice(["gets", "buys", "finds"])
        return (
            f"{name} has {a} {thing}. {he.capitalize()} {verb} {b} more. How many {thing} does {name} have now?",
            f"{a} + {b} = {a + b}. {name} has {a + b} {thing}.",
        )
    a += b
    verb = rng.choice(["gives away", "loses", "sells"])
    return (
        f"{name} has {a} {thing}. {he.capitalize()} {verb} {b} of them. How many {thing} are left?",
        f"{a} - {b} = {a - b}. {name} has {a - b} {thing} left.",
    )


def _counting(rng: Random) -> tuple[int, int, str]:
    start, step = rng.randint(0, 20), rng.choice([1, 2, 3, 4, 5, 10])
    return start, step, ", ".join(str(start + step * i) for i in range(rng.randint(6, 10)))


def plain(rng: Random) -> str:
    form = rng.choice(["sheet", "sheet", "worked", "worked", "word", "count"])
    if form == "sheet":
        lines = [f"{sum_} = {value}" for sum_, value, _ in (_problem(rng) for _ in range(rng.randint(4, 9)))]
        return "Sums\n" + "\n".join(lines)
    if form == "worked":
        sum_, value, steps = _problem(rng)
        return f"Work out {sum_}. {steps} So {sum_} = {value}."
    if form == "word":
        return " ".join(_word_problem(rng))
    start, step, numbers = _counting(rng)
    return f"Counting by {step} from {start}: {numbers}."


def chat(rng: Random) -> tuple[str, str]:
    form = rng.choice(["direct", "direct", "worked", "word", "count"])
    if form == "word":
        return _word_problem(rng)
    if form == "count":
        start, step, numbers = _counting(rng)
        return f"Count by {step} from {start}.", f"{numbers}."
    sum_, value, steps = _problem(rng)
    if form == "worked":
        request = rng.choice(["Work out {}.", "Work out {} step by step.", "Show me how to work out {}."])
        return request.format(sum_), f"{steps} So {sum_} = {value}."
    request = rng.choice(["What is {}?", "How much is {}?", "Please calculate {}.", "{} = ?", "Calculate {}."])
    return request.format(sum_), rng.choice(["{} = {}.", "{} = {}.", "The answer is {1}: {0} = {1}."]).format(sum_, value)
