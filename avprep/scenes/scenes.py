"""The ten sounding scenes of `avprep synth`.

Each is one pure function `(rng, timeline) -> Parts`. It draws its events first and makes both the picture
and the sound from them, so that what is heard is seen: louder is bigger or brighter, a higher pitch is a
higher, faster or other place. Every clip of 1.6 s holds something to hear.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from avprep.scenes.sketch import (
    COLOURS,
    WHITE,
    Array,
    Parts,
    Timeline,
    bolt,
    box,
    clouds,
    daylight,
    ellipse,
    fading,
    glow,
    gradient,
    line,
    noise,
    peaks_s,
    rgb,
    rhythm,
    ring,
    scatter,
    span,
    strikes,
    tone,
)

Rng = np.random.Generator
NAMES = tuple(COLOURS)


def ball(rng: Rng, timeline: Timeline) -> Parts:
    """A ball that bounces; it clicks as it lands, louder from higher up, and small balls click higher."""
    name, radius, gravity = rng.choice(NAMES), rng.uniform(0.07, 0.13), rng.uniform(5, 8)
    heights = rng.uniform(0.2, 0.62, int(timeline.seconds / 0.4) + 3)
    flights_s = np.sqrt(8 * heights / gravity)
    lands_s = np.cumsum(flights_s) - rng.uniform(0, flights_s[0])
    x0, speed, floor = rng.uniform(0, 2), rng.choice([-1, 1]) * rng.uniform(0.12, 0.3), 0.86

    def draw(canvas: Array, k: int) -> None:
        t = timeline.frame_s[k]
        hop = int(np.searchsorted(lands_s, t, side="right"))
        into_s = t - lands_s[hop] + flights_s[hop]
        height = gravity / 2 * into_s * (flights_s[hop] - into_s)
        x = 0.15 + 0.7 * abs((x0 + speed * t) % 2 - 1)
        squash = 0.3 * fading(t, lands_s, 0.03)
        rx, ry = radius * (1 + squash), radius * (1 - squash)
        ellipse(canvas, x, floor, radius * (1.3 - height), 0.02, (0, 0, 0), 0.6 * (1 - height))
        ellipse(canvas, x, floor - height - ry, rx, ry, COLOURS[name])
        ellipse(canvas, x - 0.3 * rx, floor - height - 1.4 * ry, 0.25 * rx, 0.25 * ry, WHITE, 0.6)

    background = daylight(rng, timeline)
    box(background, -0.1, floor - 0.02, 1.1, 1.1, (95, 80, 70))
    s = span(timeline, 0.25)
    knock = np.sin(2 * np.pi * 75 / radius * rng.uniform(0.9, 1.1) * s) * np.exp(-s / 0.03)
    knock += 0.6 * np.exp(-s / 0.002) * rng.uniform(-1, 1, len(s))
    heard = lands_s < timeline.seconds
    sound = strikes(timeline, lands_s[heard], [knock * height for height in heights[heard]])
    caption = f"a {'small' if radius < 0.1 else 'large'} {name} ball bouncing on the floor"
    return Parts(background, draw, sound, lands_s[heard], caption)


def rain(rng: Rng, timeline: Timeline) -> Parts:
    """Rain that comes in gusts: the more drops, the louder."""
    period_s, phase = rng.uniform(1.5, 3.0), rng.uniform(0, 1)
    drops, splashes, length, fall = 420, 24, max(2, timeline.size // 18), rng.uniform(1.1, 1.6)
    x, y, depth = rng.uniform(0, 1, drops), rng.uniform(0, 1, drops), rng.uniform(0.5, 1, drops)
    slant, landing = rng.uniform(-0.2, 0.2), rng.uniform((0, 0.84), (1, 0.98), (997, 2))
    light = 0.55 * min(timeline.size, 256)  # a drop is one pixel wide: the larger the pixel, the fainter

    def strength(t: Array | float) -> Array:
        return 0.55 - 0.45 * np.cos(2 * np.pi * (t / period_s + phase))

    def draw(canvas: Array, k: int) -> None:
        t, size = timeline.frame_s[k], timeline.size
        gust = float(strength(t))
        canvas += 0.25 * gust * (rgb((190, 200, 215)) - canvas)
        falling = np.arange(drops) < drops * gust
        rows = (y + fall * depth * t)[falling, None] % 1.1 - np.arange(length) / size
        columns = (x[falling, None] + slant * rows) % 1.0
        inside = (rows >= 0) & (rows < 0.97)
        canvas[:, (rows[inside] * size).astype(int), (columns[inside] * size).astype(int)] += light
        for n in range(int(splashes * gust)):
            splash_x, splash_y = landing[(k * splashes + n) % len(landing)]
            ellipse(canvas, splash_x, splash_y, 0.025, 0.008, (215, 225, 240), 0.7)

    hue = rng.uniform(0, 1)
    background = gradient(timeline, (25 + 25 * hue, 35, 65 + 20 * hue), (70, 85 + 20 * hue, 110))
    box(background, -0.1, 0.82, 1.1, 1.1, (35, 45, 60))
    hiss = noise(rng, timeline.samples, 1500, 9000, timeline.sample_rate)
    patter = (rng.random(timeline.samples // 64 + 1) > 0.97).repeat(64)[: timeline.samples]
    sound = hiss * (1 + 2 * patter) * strength(timeline.sample_s) ** 1.5
    caption = f"{'heavy' if fall > 1.35 else 'light'} rain falling in gusts on the street"
    return Parts(background, draw, sound, peaks_s(timeline, period_s, phase), caption)


def siren(rng: Rng, timeline: Timeline) -> Parts:
    """An emergency car: the left lamp shines with the low tone, the right one with the high tone."""
    wails, period_s, phase = rng.random() < 0.5, rng.uniform(0.7, 1.3), rng.uniform(0, 1)
    low_hz, ratio = rng.uniform(500, 750), rng.uniform(1.33, 1.6)
    paintwork, x = rng.choice(NAMES), rng.uniform(0.4, 0.6)
    lamps = [(x - 0.13, COLOURS["red"]), (x + 0.13, COLOURS["blue"])][:: rng.choice([-1, 1])]

    def height(t: Array | float) -> Array:
        turn = np.cos(2 * np.pi * (t / period_s + phase))
        return 0.5 - 0.5 * (turn if wails else np.tanh(12 * turn))

    background = gradient(timeline, (12, 14, 32), (40, 40, 60))
    box(background, -0.1, 0.8, 1.1, 1.1, (30, 30, 34))
    box(background, x - 0.19, 0.48, x + 0.19, 0.62, (25, 30, 40))
    box(background, x - 0.28, 0.6, x + 0.28, 0.8, tuple(0.6 * c for c in COLOURS[paintwork]))
    for wheel in (-0.17, 0.17):
        ellipse(background, x + wheel, 0.8, 0.06, 0.06, (15, 15, 15))
    halos = [np.zeros_like(background) for _ in lamps]
    for halo, (lamp, colour) in zip(halos, lamps, strict=True):
        glow(halo, lamp, 0.42, 0.22, colour, 0.9)
        glow(halo, lamp, 0.9, 0.12, colour, 0.4)

    def draw(canvas: Array, k: int) -> None:
        high = float(height(timeline.frame_s[k]))
        for light, halo, (lamp, colour) in zip((1 - high, high), halos, lamps, strict=True):
            canvas += light * halo
            ellipse(canvas, lamp, 0.45, 0.06, 0.045, (40, 40, 45))
            ellipse(canvas, lamp, 0.45, 0.06, 0.045, colour, light)
            ellipse(canvas, lamp, 0.44, 0.03, 0.02, WHITE, light)

    pitch = low_hz * ratio ** height(timeline.sample_s)
    sound = np.zeros(timeline.samples)
    for n in (1, 2, 3, 5):
        sound += tone(n * pitch, timeline.sample_rate) / n
    kind = "wailing" if wails else "two-tone"
    caption = f"{_a(paintwork)} emergency car with a {kind} siren and flashing lights"
    return Parts(background, draw, sound, peaks_s(timeline, period_s, phase), caption)


def drum(rng: Rng, timeline: Timeline) -> Parts:
    """A drum from above: the stick comes down, the skin flashes and ripples, harder when louder."""
    beat_s, name = rng.uniform(0.28, 0.45), rng.choice(NAMES)
    radius, x, y = rng.uniform(0.27, 0.36), rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.6)
    beats_s = np.arange(rng.uniform(0.05, beat_s), timeline.seconds - 0.02, beat_s)
    steps, accents = np.arange(len(beats_s)) % 4, rng.uniform(0.4, 0.7, len(beats_s))
    played = (steps % 2 == 0) | (rng.random(len(beats_s)) < 0.4)
    hits_s, gains = beats_s[played], np.where(steps == 0, 1.0, accents)[played]

    def draw(canvas: Array, k: int) -> None:
        t = timeline.frame_s[k]
        shake = fading(t, hits_s, 0.12, gains)
        ellipse(canvas, x, y, radius * 1.08, radius * 1.08, COLOURS[name])
        ellipse(canvas, x, y, radius, radius, (150 + 105 * shake, 140 + 105 * shake, 120 + 100 * shake))
        for since, gain in zip(t - hits_s, gains, strict=True):
            if 0 <= since < 0.3:
                alpha = gain * (1 - since / 0.3)
                ring(canvas, x, y, radius * (0.15 + 2.6 * since), 0.025, COLOURS[name], alpha)
        lift = min(1.0, abs(hits_s - t).min() / 0.12)
        tip_x, tip_y = x + 0.22 * lift, y - 0.30 * lift
        line(canvas, tip_x, tip_y, tip_x + 0.4, tip_y - 0.35, 0.035, (120, 75, 40))
        ellipse(canvas, tip_x, tip_y, 0.035, 0.035, (235, 205, 160))

    background = 0.45 * daylight(rng, timeline)
    s, pitch = span(timeline, 1.0), 26 / radius * rng.uniform(0.85, 1.15)
    boom = tone(pitch * (1 + 1.2 * np.exp(-s / 0.025)), timeline.sample_rate) * np.exp(-s / 0.13)
    boom += 0.35 * noise(rng, len(s), 300, 2500, timeline.sample_rate) * np.exp(-s / 0.012)
    sound = strikes(timeline, hits_s, [boom * gain for gain in gains])
    caption = f"{_a(name)} drum beaten with a stick in a {'fast' if beat_s < 0.36 else 'slow'} rhythm"
    return Parts(background, draw, sound, hits_s, caption)


def waves(rng: Rng, timeline: Timeline) -> Parts:
    """Waves that run up a beach: the sound swells with the water and its foam."""
    period_s, phase, tide = rng.uniform(1.6, 2.8), rng.uniform(0, 1), rng.uniform(0.55, 0.62)
    water = rgb(rng.uniform((15, 90, 140), (40, 150, 200)))
    sand, bends = (
        rgb(rng.uniform((190, 165, 110), (235, 210, 160))),
        rng.uniform(0, 6.28, 3).astype(np.float32),
    )
    centres = (np.arange(timeline.size, dtype=np.float32) + 0.5) / timeline.size
    horizon = round(0.38 * timeline.size)
    x, y = centres[None, :], centres[horizon:, None]  # of the part below the horizon
    coast = 0.012 * np.sin(18 * x + bends[0]) + 0.01 * np.sin(31 * x + bends[1])
    crests = 110 * (y - 0.37) ** 0.7 + 1.5 * np.sin(5 * x + bends[2])

    def swell(t: Array | float) -> Array:
        return (0.5 - 0.5 * np.cos(2 * np.pi * (t / period_s + phase))) ** 1.5

    def draw(canvas: Array, k: int) -> None:
        t, sea = float(timeline.frame_s[k]), canvas[:, horizon:]
        up = float(swell(t))
        depth = float(tide) + 0.3 * up + coast - y
        wet = (depth * timeline.size + 0.5).clip(0, 1)
        sea += wet * (water * (0.75 + 0.35 * (y - 0.38)) - sea)
        sea += wet * (22 * np.sin(crests - 4 * np.pi * t / float(period_s)).clip(0))
        foam = np.exp(-0.5 * ((depth - 0.02) / (0.012 + 0.03 * up)) ** 2) * (0.35 + 0.65 * up)
        sea += foam * (rgb(WHITE) - sea)

    background = gradient(timeline, (110, 175, 235), (225, 235, 245))
    ellipse(background, rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.25), 0.07, 0.07, (255, 240, 180))
    background[:, horizon:] = sand
    rush = noise(rng, timeline.samples, 60, 900, timeline.sample_rate)
    sound = rush * (0.08 + swell(timeline.sample_s))
    caption = f"{'quick' if period_s < 2.2 else 'slow'} waves breaking on a sandy beach"
    return Parts(background, draw, sound, peaks_s(timeline, period_s, phase), caption)


def engine(rng: Rng, timeline: Timeline) -> Parts:
    """A one-cylinder engine: it fires, glows and puffs once a turn; faster turns sound higher."""
    idle, blip, period_s = rng.uniform(1.8, 2.6), rng.uniform(0.6, 1.4), rng.uniform(2.2, 4.0)
    name, way = rng.choice(NAMES), rng.choice([-1, 1])
    speed = idle + blip * (0.5 - 0.5 * np.cos(2 * np.pi * (timeline.sample_s / period_s + rng.random())))
    turns = np.cumsum(speed) / timeline.sample_rate + rng.random()
    fires_s = timeline.sample_s[1:][np.diff(np.floor(turns)) > 0]
    iron, steel = (50, 50, 58), (185, 190, 200)

    def draw(canvas: Array, k: int) -> None:
        t = timeline.frame_s[k]
        angle = way * 2 * np.pi * turns[round(t * timeline.sample_rate)] - np.pi / 2
        fire = fading(t, fires_s, 0.09)
        pin_x, pin_y = 0.5 + 0.14 * np.cos(angle), 0.66 + 0.14 * np.sin(angle)
        piston_y = pin_y - np.sqrt(0.33**2 - (pin_x - 0.5) ** 2)
        box(canvas, 0.37, 0.06, 0.63, 0.40, (70, 72, 80))
        box(canvas, 0.40, 0.08, 0.60, piston_y, (40 + 215 * fire, 40 + 150 * fire, 45 + 30 * fire))
        box(canvas, 0.40, piston_y - 0.05, 0.60, piston_y + 0.06, steel)
        ellipse(canvas, 0.5, 0.66, 0.27, 0.27, iron)
        ellipse(canvas, 0.5, 0.66, 0.23, 0.23, COLOURS[name])
        for tip in angle + np.pi / 2 * np.arange(4):
            line(canvas, 0.5, 0.66, 0.5 + 0.22 * np.cos(tip), 0.66 + 0.22 * np.sin(tip), 0.03, iron)
        line(canvas, pin_x, pin_y, 0.5, piston_y, 0.05, steel)
        ellipse(canvas, pin_x, pin_y, 0.04, 0.04, WHITE)
        for age in t - fires_s[(fires_s <= t) & (fires_s > t - 0.6)]:
            puff = 0.03 + 0.12 * age
            ellipse(canvas, 0.7 + 0.4 * age, 0.15 - 0.1 * age, puff, puff, (235, 235, 235), 0.8 - age)

    background = 0.7 * daylight(rng, timeline)
    growl = sum(np.sin(2 * np.pi * 22 * n * turns) / n**0.6 for n in range(1, 16))
    firing = strikes(timeline, fires_s, [np.exp(-span(timeline, 0.5) / 0.07)] * len(fires_s))
    sound = growl * (0.15 + firing) * (speed / idle)
    caption = f"an engine with {_a(name)} flywheel {'revving up and down' if blip > 1 else 'running'}"
    return Parts(background, draw, sound, fires_s, caption)


def bird(rng: Rng, timeline: Timeline) -> Parts:
    """A bird that sings: with each chirp it opens its beak and stretches, further for higher notes."""
    name, x, way = rng.choice(NAMES), rng.uniform(0.42, 0.58), rng.choice([-1, 1])
    chirps_s = rhythm(rng, timeline, 0.22, 0.55)
    pitches, lengths_s = rng.uniform(0, 1, len(chirps_s)), rng.uniform(0.09, 0.17, len(chirps_s))
    low_hz, sweep = rng.uniform(2000, 2600), rng.choice([-1, 1]) * rng.uniform(0.25, 0.5)
    plumage, wing = COLOURS[name], tuple(0.6 * c for c in COLOURS[name])

    def chirp(pitch: float, seconds: float) -> Array:
        u = span(timeline, seconds) / seconds
        return tone(low_hz * 2 ** (1.1 * pitch + sweep * (u - 0.5)), timeline.sample_rate) * np.sin(np.pi * u)

    def draw(canvas: Array, k: int) -> None:
        since = timeline.frame_s[k] - chirps_s
        singing = (since >= 0) & (since < lengths_s + 0.04)
        lift = (0.04 + 0.08 * pitches[singing]).max(initial=0)
        head_x, head_y, beak_x = x + 0.14 * way, 0.4 - lift, x + 0.33 * way
        line(canvas, x - 0.1 * way, 0.62, x - 0.34 * way, 0.74 + 0.4 * lift, 0.07, wing)
        ellipse(canvas, x, 0.58 - 0.4 * lift, 0.19, 0.15 + 0.4 * lift, plumage)
        ellipse(canvas, x - 0.05 * way, 0.58 - 0.4 * lift, 0.11, 0.07, wing)
        for gape in (-0.06, 0.06):
            tip_y = head_y + 0.02 + gape * singing.any()
            line(canvas, head_x + 0.07 * way, head_y, beak_x, tip_y, 0.04, (250, 170, 40))
        ellipse(canvas, head_x, head_y, 0.11, 0.11, plumage)
        ellipse(canvas, head_x + 0.03 * way, head_y - 0.03, 0.022, 0.022, (15, 15, 15))
        for age in since[(since >= 0) & (since < 0.35)]:
            ring(canvas, beak_x, head_y, 0.05 + 0.6 * age, 0.012, WHITE, 0.9 - 2.5 * age)

    background = daylight(rng, timeline)
    box(background, -0.1, 0.72, 1.1, 0.77, (105, 75, 50))
    for leaf_x, leaf_y in rng.uniform((0, 0.68), (1, 0.85), (14, 2)):
        ellipse(background, leaf_x, leaf_y, 0.05, 0.025, (70, 150, 70))
    sound = strikes(timeline, chirps_s, [chirp(*note) for note in zip(pitches, lengths_s, strict=True)])
    return Parts(background, draw, sound, chirps_s, caption=f"{_a(name)} bird chirping on a branch")


def fireworks(rng: Rng, timeline: Timeline) -> Parts:
    """Rockets that burst: each lights the sky, booms and crackles as its sparks fall."""
    bursts_s, sparks = rhythm(rng, timeline, 0.55, 1.1), 110
    count = len(bursts_s)
    names, powers = rng.choice(NAMES, count), rng.uniform(0.5, 1, count)
    origins = rng.uniform((0.2, 0.2), (0.8, 0.5), (count, 2))
    heading, pace = rng.uniform(0, 6.28, (count, sparks)), np.sqrt(rng.uniform(0.1, 1, (count, sparks)))

    def draw(canvas: Array, k: int) -> None:
        for b, age in enumerate(timeline.frame_s[k] - bursts_s):
            (x, y), colour = origins[b], COLOURS[names[b]]
            if -0.5 < age < 0:
                line(canvas, x, y - age * 1.5, x, y - age * 1.5 + 0.06, 0.015, (255, 220, 150))
            if 0 <= age < 1.2:
                glow(canvas, x, y, 0.35 * powers[b], colour, 1.2 * powers[b] * np.exp(-age / 0.12))
                reach = 0.36 * powers[b] * pace[b] * (1 - np.exp(-age / 0.25))
                spark_x, spark_y = x + reach * np.cos(heading[b]), y + reach * np.sin(heading[b])
                scatter(
                    canvas,
                    spark_x,
                    spark_y + 0.18 * age**2,
                    1.3 * (1 - age / 1.2) * np.asarray(colour, np.float32),
                )

    s, rate = span(timeline, 1.0), timeline.sample_rate

    def burst(power: float) -> Array:
        boom = 1.6 * noise(rng, len(s), 50, 300, rate) * np.exp(-s / 0.12)
        crackle = (rng.random(len(s) // 128 + 1) > 0.9).repeat(128)[: len(s)] * (s > 0.05) * np.exp(-s / 0.35)
        return power * (boom + 0.9 * crackle * noise(rng, len(s), 2500, 8000, rate))

    background = gradient(timeline, (5, 5, 20), tuple(rng.uniform(15, 45, 3)))
    for left in np.arange(0, 1, 0.125):
        box(background, left, 1 - rng.uniform(0.06, 0.2), left + 0.11, 1.1, (8, 8, 14))
    sound = strikes(timeline, bursts_s, [burst(power) for power in powers])
    return Parts(background, draw, sound, bursts_s, caption="fireworks bursting in the night sky over a town")


def thunder(rng: Rng, timeline: Timeline) -> Parts:
    """A near thunderstorm: lightning lights the clouds with the crack, and they flicker while it rolls."""
    struck_s = rhythm(rng, timeline, 0.8, 1.4)
    gains, bolts = rng.uniform(0.6, 1, len(struck_s)), [bolt(rng) for _ in struck_s]
    tint = rgb(rng.uniform((150, 150, 190), (220, 200, 255)))
    cloud = clouds(rng, timeline)

    def draw(canvas: Array, k: int) -> None:
        t = timeline.frame_s[k]
        flicker = fading(t, struck_s, 0.12, gains) * (0.75 + 0.25 * np.cos(70 * t))
        canvas += float(flicker + 0.25 * fading(t, struck_s, 0.5, gains)) * cloud * tint
        for since, points in zip(t - struck_s, bolts, strict=True):
            if 0 <= since < 0.16:
                for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
                    line(canvas, x0, y0, x1, y1, 0.018, (255, 255, 235))
        box(canvas, -0.1, 0.88, 1.1, 1.1, (8, 10, 12))

    background = gradient(timeline, (28, 28, 44), (48, 46, 62)) + 22 * cloud
    wind = noise(rng, timeline.samples, 100, 800, timeline.sample_rate)
    roll = noise(rng, timeline.samples, 35, 140, timeline.sample_rate)
    crack = noise(rng, timeline.samples, 500, 5000, timeline.sample_rate)
    s = span(timeline, 3)
    roll *= strikes(timeline, struck_s, gains[:, None] * np.exp(-s / 0.5))
    crack *= strikes(timeline, struck_s, gains[:, None] * np.exp(-s / 0.05))
    sound = roll + 0.8 * crack + 0.01 * wind
    return Parts(background, draw, sound, struck_s, caption="lightning and thunder in dark clouds at night")


def xylophone(rng: Rng, timeline: Timeline) -> Parts:
    """Coloured bars, long and low at the left, short and high at the right; each lights as it is struck."""
    notes_s, base_hz = rhythm(rng, timeline, 0.18, 0.42), rng.uniform(420, 600)
    walk = rng.integers(8) + np.cumsum(rng.integers(-2, 3, len(notes_s)))
    played, gains = abs(walk % 14 - 7), rng.uniform(0.6, 1, len(notes_s))  # back and forth over 8 bars
    pitches = base_hz * 2 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16]) / 12)

    def draw(canvas: Array, k: int) -> None:
        t = timeline.frame_s[k]
        for bar, colour in enumerate(COLOURS.values()):
            ringing = fading(t, notes_s[played == bar], 0.18, gains[played == bar])
            half, x = 0.36 - 0.022 * bar, 0.08 + 0.12 * bar
            lit = tuple((0.55 + 0.1 * ringing) * c + 120 * ringing for c in colour)
            box(canvas, x - 0.05, 0.55 - half, x + 0.05, 0.55 + half, lit)
        near = abs(notes_s - t).argmin()
        x, y = 0.08 + 0.12 * played[near], 0.55 - 0.22 * min(1.0, abs(notes_s[near] - t) / 0.09)
        line(canvas, x, y, x + 0.12, y + 0.55, 0.02, (90, 60, 40))
        ellipse(canvas, x, y, 0.045, 0.045, (250, 250, 245))

    s = span(timeline, 1.5)
    phases = 2 * np.pi * pitches[played][:, None] * s
    voices = np.sin(phases) * np.exp(-s / 0.22) + 0.35 * np.sin(3.93 * phases) * np.exp(-s / 0.05)
    sound = strikes(timeline, notes_s, gains[:, None] * voices)
    background = 0.3 * daylight(rng, timeline)
    return Parts(background, draw, sound, notes_s, caption="a melody on a xylophone with coloured bars")


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# A scene's name is its class. `write_scenes` goes round them in this order.
SCENES: tuple[Callable[[Rng, Timeline], Parts], ...] = (
    ball,
    rain,
    siren,
    drum,
    waves,
    engine,
    bird,
    fireworks,
    thunder,
    xylophone,
)
