"""Weather reports in which sky, temperature, wind and advice fit together."""

from random import Random

FIRST = "Ash Black Bright Clear Cold Cross Dun East Elm Fair Green High Kings Long Mill North Oak Red Stone West Whit Wood".split()
LAST = "bridge burn bury dale field ford ham haven hill ley mouth port ridge side stead ton wick worth".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
WINDS = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"]
# Sky: (how the day goes, least and most degrees, advice).
SKIES = {
    "sunny": (["The sky stays clear all day.", "There will be hardly a cloud in the sky.", "Expect long hours of sunshine."], 18, 33,
              ["Take a hat and drink plenty of water.", "It is a good day for a walk.", "Sun cream is a good idea."]),
    "cloudy": (["Thick clouds cover the sky for most of the day.", "The sun will hardly be seen.", "Grey clouds move in from the sea."], 8, 20,
               ["It stays dry, so an umbrella is not needed.", "A light jacket is enough."]),
    "rainy": (["Rain starts early and goes on until the evening.", "Showers pass over the town, some of them heavy.", "Steady rain falls from noon on."], 6, 17,
              ["Take an umbrella with you.", "Roads may be slippery, so drive with care.", "Boots and a raincoat are a good idea."]),
    "snowy": (["Snow falls during the morning and settles on the hills.", "Up to {cm} centimetres of snow are expected.", "Light snow turns heavy in the afternoon."], -9, 1,
              ["Dress warmly and wear good boots.", "Trains may be late because of the snow.", "Mind the ice on paths and steps."]),
    "foggy": (["Fog lies over the fields until late in the morning.", "It is hard to see far before noon.", "The fog lifts slowly in the afternoon."], 2, 12,
              ["Drive slowly and use your lights.", "Ferries may be late because of the fog."]),
    "stormy": (["Thunder and lightning are likely in the afternoon.", "A storm moves in from the coast.", "Strong gusts may bring down branches."], 10, 24,
               ["Stay indoors if you can.", "Keep away from tall trees.", "Tie down anything that is loose in the garden."]),
}


def _report(rng: Random) -> tuple[str, str, str]:
    town, day = rng.choice(FIRST) + rng.choice(LAST), rng.choice(DAYS)
    sky = rng.choice(list(SKIES))
    course, least, most, advice = SKIES[sky]
    high = rng.randint(least + 2, most)
    low = high - rng.randint(4, 9)
    wind = rng.choice(WINDS)
    speed = rng.randint(40, 90) if sky == "stormy" else rng.randint(3, 35)
    strength = "storm" if speed >= 40 else "strong" if speed > 25 else "fresh" if speed > 12 else "light"
    wind_text = (
        f"Gusts from the {wind} reach {speed} kilometres per hour." if strength == "storm"
        else f"A {strength} wind blows from the {wind} at {speed} kilometres per hour."
    )
    tomorrow = rng.choice([s for s in SKIES if s != sky])
    sentences = [
        rng.choice([f"{day} will be {sky} in {town}.", f"It will be {sky} in {town} on {day}.", f"In {town}, {day} will be {sky}."]),
        rng.choice(course).format(cm=rng.randint(2, 30)),
        rng.choice([f"The temperature reaches {high} degrees in the afternoon and falls to {low} degrees at night.",
                    f"Highs of {high} degrees and lows of {low} degrees are expected.",
                    f"The day is {'cold' if high < 8 else 'mild' if high < 18 else 'warm' if high < 26 else 'hot'}, with {high} degrees at noon and {low} degrees at night."]),
        wind_text,
        rng.choice(advice),
    ]
    if rng.random() < 0.5:
        sentences.append(rng.choice([f"The next day will be {tomorrow}.", f"After that it turns {tomorrow}."]))
    return town, day, " ".join(sentences)


def plain(rng: Random) -> str:
    town, day, report = _report(rng)
    return rng.choice([f"Weather report for {town}, {day}\n{report}", f"Weather in {town}: {report}", f"Weather forecast for {town}. {report}"])


def chat(rng: Random) -> tuple[str, str]:
    town, day, report = _report(rng)
    request = rng.choice([
        f"What will the weather be like in {town} on {day}?", f"Give me a weather report for {town} on {day}.",
        f"How is the weather in {town} on {day}?", f"Weather forecast for {town}, {day}, please.",
    ])
    return request, report
