"""The ten sounding scenes of `avprep synth`.

Each is one pure function `(rng, timeline) -> Parts`. It draws its events first and makes both the picture
and the sound from them, so that what is heard is seen: louder is bigger or brighter, a higher pitch is a
higher, faster or other place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from avprep.media.sketch import (
    COLOURS,
    WHITE,
    Array,
    Colour,
    Parts,
    Timeline,
    bolt,
    box,
    clouds,
    ellipse,
    fading,
    glow,
    gradient,
    line,
    noise,
    peaks_s,
    rhythm,
    ring,
    scatter,
    span,
    strikes,
    tone,
)

Rng = np.random.Generator


def ball(rng: Rng, timeline: Timeline) -> Parts:
    """A ball that bounces; it clicks as it lands, louder from higher up, and small balls click higher."""
    name, radius, gravity = rng.choice(list(COLOURS)), rng.uniform(0.07, 0.13), rng.uniform(5, 8)
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
        squash = 0.3 * fading(t, lands_s, 0.03).max()
        rx, ry = radius * (1 + squash), radius * (1 - squash)
        ellipse(canvas, x, floor, radius * (1.3 - height), 0.02, (0, 0, 0), 0.6 * (1 - height))
        ellipse(canvas, x, floor - height - ry, rx, ry, COLOURS[name])
        ellipse(canvas, x - 0.3 * rx, floor - height - 1.4 * ry, 0.25 * rx, 0.25 * ry, WHITE, 0.6)

    background = gradient(timeline, *_pastel(rng))
    box(background, -0.1, floor - 0.02, 1.1, 1.1, (95, 80, 70))
    s = span(timeline, 0.25)
    pitch = 75 / radius * rng.uniform(0.9, 1.1)
    knock = np.sin(2 * np.pi * pitch * s) * np.exp(-s / 0.03) + 0.6 * np.exp(-s / 0.002) * rng.uniform(-1, 1, len(s))
    heard = lands_s[(lands_s >= 0) & (lands_s < timeline.seconds)]
    loudness = heights[: len(lands_s)][(lands_s >= 0) & (lands_s < timeline.seconds)]
    sound = strikes(timeline, heard, [knock * h for h in loudness])
    return Parts(background, draw, sound, heard, caption=f"a {_sized(radius, 0.1)} {name} ball bouncing on the floor")


def rain(rng: Rng, timeline: Timeline) -> Parts:
    """Rain that comes in gusts: the more drops, the louder."""
    period_s, phase = rng.uniform(1.5, 3.0), rng.uniform(0, 1)
    drops, length, fall = 420, 14 * timeline.size // 256, rng.uniform(1.1, 1.6)
    x, y, depth = rng.uniform(0, 1, drops), rng.uniform(0, 1, drops), rng.uniform(0.5, 1, drops)
    slant = rng.uniform(-0.2, 0.2)
    splashes = rng.uniform(0, 1, (len(timeline.frame_s), 24, 2))

    def strength(t: Array | float) -> Array:
        return 0.55 - 0.45 * np.cos(2 * np.pi * (t / period_s + phase))

    def draw(canvas: Array, k: int) -> None:
        t, size = timeline.frame_s[k], timeline.size
        canvas += 0.25 * strength(t) * (np.float32((190, 200, 215)) - canvas)
        falling = np.arange(drops) < drops * strength(t)
        tail = np.arange(length) / size
        rows = (y + fall * depth * t)[falling, None] % 1.1 - tail
        columns = (x[falling, None] + slant * rows) % 1.0
        inside = (rows >= 0) & (rows < 0.97)
        rows, columns = (rows[inside] * size).astype(int), (columns[inside] * size).astype(int)
        canvas[rows, columns] += 110
        for sx, sy in splashes[k, : int(24 * strength(t))]:
            ellipse(canvas, sx, 0.84 + 0.14 * sy, 0.025, 0.008, (215, 225, 240), 0.7)

    hue = rng.uniform(0, 1)
    background = gradient(timeline, (25 + 25 * hue, 35, 65 + 20 * hue), (70, 85 + 20 * hue, 110))
    box(background, -0.1, 0.82, 1.1, 1.1, (35, 45, 60))
    samples, rate = len(timeline.sample_s), timeline.sample_rate
    hiss = noise(rng, samples, 1500, 9000, rate) + 0.6 * noise(rng, samples, 400, 1500, rate)
    ticks = noise(rng, samples, 3000, 7000, rate) * (rng.uniform(0, 1, samples // 64 + 1) > 0.97).repeat(64)[:samples]
    sound = (hiss + 1.5 * ticks) * strength(timeline.sample_s) ** 1.5
    return Parts(background, draw, sound, peaks_s(timeline, period_s, phase), caption=f"{'heavy' if fall > 1.35 else 'light'} rain falling in gusts on the street")


def siren(rng: Rng, timeline: Timeline) -> Parts:
    """An emergency car: the left lamp shines with the low tone, the right one with the high tone."""
    wails, period_s, phase = rng.random() < 0.5, rng.uniform(0.7, 1.3), rng.uniform(0, 1)
    low_hz, ratio = rng.uniform(500, 750), rng.uniform(1.33, 1.6)
    left, right = rng.permutation(["red", "blue"]) if rng.random() < 0.7 else ("orange", "orange")
    paintwork, x = rng.choice(list(COLOURS)), rng.uniform(0.4, 0.6)

    def height(t: Array | float) -> Array:
        turn = np.cos(2 * np.pi * (t / period_s + phase))
        return 0.5 - 0.5 * (turn if wails else np.tanh(12 * turn))

    def draw(canvas: Array, k: int) -> None:
        high = float(height(timeline.frame_s[k]))
        for side, name, light in ((-1, left, 1 - high), (1, right, high)):
            lx = x + side * 0.13
            glow(canvas, lx, 0.42, 0.22, COLOURS[name], 0.9 * light)
            glow(canvas, lx, 0.9, 0.12, COLOURS[name], 0.4 * light)
            ellipse(canvas, lx, 0.45, 0.06, 0.045, (40, 40, 45))
            ellipse(canvas, lx, 0.45, 0.06, 0.045, COLOURS[name], light)
            ellipse(canvas, lx, 0.44, 0.03, 0.02, WHITE, light)

    background = gradient(timeline, (12, 14, 32), (40, 40, 60))
    box(background, -0.1, 0.8, 1.1, 1.1, (30, 30, 34))
    box(background, x - 0.19, 0.48, x + 0.19, 0.62, (25, 30, 40))
    box(background, x - 0.28, 0.6, x + 0.28, 0.8, tuple(0.6 * c for c in COLOURS[paintwork]))
    for wheel in (-0.17, 0.17):
        ellipse(background, x + wheel, 0.8, 0.06, 0.06, (15, 15, 15))
    pitch = low_hz * ratio ** height(timeline.sample_s)
    sound = sum(tone(n * pitch, timeline.sample_rate) / n for n in (1, 2, 3, 5))
    return Parts(background, draw, sound, peaks_s(timeline, period_s, phase), caption=f"a {paintwork} emergency car with a {'wailing' if wails else 'two-tone'} siren and flashing lights")


def drum(rng: Rng, timeline: Timeline) -> Parts:
    """A drum from above: the stick comes down, the skin flashes and ripples, harder when louder."""
    beat_s, name = rng.uniform(0.28, 0.45), rng.choice(list(COLOURS))
    radius, x, y = rng.uniform(0.27, 0.36), rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.6)
    beats_s = np.arange(rng.uniform(0.05, beat_s), timeline.seconds - 0.02, beat_s)
    played = rng.random(8) < 0.65
    played[0] = True
    accents = np.where(np.arange(8) % 4 == 0, 1.0, rng.uniform(0.4, 0.7, 8))
    steps = np.arange(len(beats_s)) % 8
    hits_s, gains = beats_s[played[steps]], accents[steps][played[steps]]

    def draw(canvas: Array, k: int) -> None:
        t = timeline.frame_s[k]
        shake = fading(t, hits_s, 0.12, gains).max()
        ellipse(canvas, x, y, radius * 1.08, radius * 1.08, COLOURS[name])
        ellipse(canvas, x, y, radius, radius, (150 + 105 * shake, 140 + 105 * shake, 120 + 100 * shake))
        for hit, gain in zip(hits_s, gains, strict=True):
            if 0 <= t - hit < 0.3:
                ring(canvas, x, y, radius * (0.15 + 2.6 * (t - hit)), 0.025, COLOURS[name], gain * (1 - (t - hit) / 0.3))
        lift = min(1.0, float(abs(hits_s - t).min()) / 0.12)
        tip_x, tip_y = x + 0.22 * lift, y - 0.30 * lift
        line(canvas, tip_x, tip_y, tip_x + 0.4, tip_y - 0.35, 0.035, (120, 75, 40))
        ellipse(canvas, tip_x, tip_y, 0.035, 0.035, (235, 205, 160))

    background = gradient(timeline, *(tuple(0.45 * c for c in colour) for colour in _pastel(rng)))
    s, f0 = span(timeline, 0.6), 26 / radius * rng.uniform(0.85, 1.15)
    boom = tone(f0 * (1 + 1.2 * np.exp(-s / 0.025)), timeline.sample_rate) * np.exp(-s / 0.13)
    boom += 0.35 * noise(rng, len(s), 300, 2500, timeline.sample_rate) * np.exp(-s / 0.012)
    sound = strikes(timeline, hits_s, [boom * gain for gain in gains])
    return Parts(background, draw, sound, hits_s, caption=f"a {name} drum being hit with a stick in a {'fast' if beat_s < 0.36 else 'slow'} rhythm")


def waves(rng: Rng, timeline: Timeline) -> Parts:
    """Waves that run up a beach: the sound swells with the water and its foam."""
    period_s, phase, tide = rng.uniform(1.6, 2.8), rng.uniform(0, 1), rng.uniform(0.55, 0.62)
    water = np.float32(rng.uniform((15, 90, 140), (40, 150, 200)))
    sand, ripples = np.float32(rng.uniform((190, 165, 110), (235, 210, 160))), rng.uniform(0, 6.28, 3)
    size = timeline.size
    y, x = ((np.arange(size, dtype=np.float32) + 0.5) / size)[:, None], np.arange(size)[None] / size

    def swell(t: Array | float) -> Array:
        return (0.5 - 0.5 * np.cos(2 * np.pi * (t / period_s + phase))) ** 1.5

    def draw(canvas: Array, k: int) -> None:
        t = timeline.frame_s[k]
        up = float(swell(t))
        shore = tide + 0.3 * up + 0.012 * np.sin(18 * x + ripples[0] + t) + 0.01 * np.sin(31 * x + ripples[1])
        depth = ((shore - y) * size).astype(np.float32)
        wet = (depth + 0.5).clip(0, 1) * (y > 0.38)
        canvas += wet[..., None] * (water * (0.75 + 0.35 * (y[..., None] - 0.38)) - canvas)
        crests = np.sin(55 * (y - 0.38) ** 0.7 * 2.0 - 2 * np.pi * t / period_s * 2 + 1.5 * np.sin(5 * x + ripples[2]))
        canvas += (wet * (22 * crests.clip(0)))[..., None]
        foam = np.exp(-((depth / size - 0.02) ** 2) / (2 * (0.012 + 0.03 * up) ** 2)) * (y > 0.42)
        canvas += (foam * (0.35 + 0.65 * up))[..., None].astype(np.float32) * (np.float32(WHITE) - canvas)

    background = gradient(timeline, (110, 175, 235), (225, 235, 245))
    ellipse(background, rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.25), 0.07, 0.07, (255, 240, 180))
    background[y[:, 0] > 0.38] = sand
    samples, rate = len(timeline.sample_s), timeline.sample_rate
    rush = noise(rng, samples, 60, 500, rate) + 0.5 * noise(rng, samples, 500, 2500, rate)
    sound = rush * (0.08 + swell(timeline.sample_s))
    return Parts(background, draw, sound, peaks_s(timeline, period_s, phase), caption=f"{'quick' if period_s < 2.2 else 'slow'} waves breaking on a sandy beach")


def engine(rng: Rng, timeline: Timeline) -> Parts:
    """A one-cylinder engine: it fires, glows and puffs once a turn; faster turns sound higher."""
    idle, blip, period_s = rng.uniform(1.8, 2.6), rng.uniform(0.6, 1.4), rng.uniform(2.2, 4.0)
    name, direction = rng.choice(list(COLOURS)), rng.choice([-1, 1])
    t = timeline.sample_s
    speed = idle + blip * (0.5 - 0.5 * np.cos(2 * np.pi * (t / period_s + rng.uniform(0, 1))))  # turns a second
    turns = np.cumsum(speed) / timeline.sample_rate + rng.uniform(0, 1)
    fires_s = t[1:][np.diff(np.floor(turns)) > 0]

    def draw(canvas: Array, k: int) -> None:
        at = round(timeline.frame_s[k] * timeline.sample_rate)
        angle = direction * 2 * np.pi * turns[at] - np.pi / 2
        fire = fading(timeline.frame_s[k], fires_s, 0.09).max(initial=0)
        pin_x, pin_y = 0.5 + 0.14 * np.cos(angle), 0.66 + 0.14 * np.sin(angle)
        piston_y = pin_y - np.sqrt(0.33**2 - (pin_x - 0.5) ** 2)
        box(canvas, 0.37, 0.06, 0.63, 0.40, (70, 72, 80))
        box(canvas, 0.40, 0.08, 0.60, piston_y, (40 + 215 * fire, 40 + 150 * fire, 45 + 30 * fire))
        box(canvas, 0.40, piston_y - 0.05, 0.60, piston_y + 0.06, (200, 205, 215))
        ellipse(canvas, 0.5, 0.66, 0.27, 0.27, (50, 50, 58))
        ellipse(canvas, 0.5, 0.66, 0.23, 0.23, COLOURS[name])
        for spoke in range(4):
            tip = angle + spoke * np.pi / 2
            line(canvas, 0.5, 0.66, 0.5 + 0.22 * np.cos(tip), 0.66 + 0.22 * np.sin(tip), 0.03, (50, 50, 58))
        line(canvas, pin_x, pin_y, 0.5, piston_y, 0.05, (170, 175, 185))
        ellipse(canvas, pin_x, pin_y, 0.04, 0.04, WHITE)
        for fired in fires_s[(fires_s <= timeline.frame_s[k]) & (fires_s > timeline.frame_s[k] - 0.6)]:
            age = timeline.frame_s[k] - fired
            ellipse(canvas, 0.7 + 0.4 * age, 0.15 - 0.1 * age, 0.03 + 0.12 * age, 0.03 + 0.12 * age, (235, 235, 235), 0.8 - age)

    background = gradient(timeline, *(tuple(0.7 * c for c in colour) for colour in _pastel(rng)))
    growl = sum(np.sin(2 * np.pi * 22 * n * turns) / n**0.6 for n in range(1, 16))
    firing = strikes(timeline, fires_s, [np.exp(-span(timeline, 0.5) / 0.07)] * len(fires_s))
    sound = growl * (0.15 + firing) * (speed / idle)
    return Parts(background, draw, sound, fires_s, caption=f"an engine with a {name} flywheel {'revving up and down' if blip > 1 else 'running'}")


def bird(rng: Rng, timeline: Timeline) -> Parts:
    """A bird that sings: with each chirp it opens its beak and stretches, further for higher notes."""
    name, x, way = rng.choice(list(COLOURS)), rng.uniform(0.42, 0.58), rng.choice([-1, 1])
    chirps_s = rhythm(rng, timeline, 0.22, 0.55)
    pitches, lengths_s = rng.uniform(0, 1, len(chirps_s)), rng.uniform(0.09, 0.17, len(chirps_s))
    low_hz, sweep = rng.uniform(2000, 2600), rng.choice([-1, 1]) * rng.uniform(0.25, 0.5)

    def chirp(k: int) -> Array:
        s = span(timeline, lengths_s[k])
        u = s / lengths_s[k]
        return tone(low_hz * 2 ** (1.1 * pitches[k] + sweep * (u - 0.5)), timeline.sample_rate) * np.sin(np.pi * u) ** 0.5

    def draw(canvas: Array, k: int) -> None:
        since = timeline.frame_s[k] - chirps_s
        singing = (since >= 0) & (since < lengths_s + 0.04)
        gape = float(singing.any())
        lift = float((0.04 + 0.08 * pitches[singing]).max(initial=0))
        dark = tuple(0.6 * c for c in COLOURS[name])
        line(canvas, x - 0.1 * way, 0.62, x - 0.34 * way, 0.74 + 0.4 * lift, 0.07, dark)
        ellipse(canvas, x, 0.58 - 0.4 * lift, 0.19, 0.15 + 0.4 * lift, COLOURS[name])
        ellipse(canvas, x - 0.05 * way, 0.58 - 0.4 * lift, 0.11, 0.07, dark)
        head_x, head_y = x + 0.14 * way, 0.4 - lift
        for jaw in (-1, 1):
            line(canvas, head_x + 0.07 * way, head_y, head_x + 0.19 * way, head_y + 0.02 + jaw * 0.06 * gape, 0.04, (250, 170, 40))
        ellipse(canvas, head_x, head_y, 0.11, 0.11, COLOURS[name])
        ellipse(canvas, head_x + 0.03 * way, head_y - 0.03, 0.022, 0.022, (15, 15, 15))
        for age in since[(since >= 0) & (since < 0.35)]:
            ring(canvas, head_x + 0.2 * way, head_y, 0.05 + 0.6 * age, 0.012, WHITE, 0.9 - 2.5 * age)

    background = gradient(timeline, *_pastel(rng))
    box(background, -0.1, 0.72, 1.1, 0.77, (105, 75, 50))
    for leaf_x, leaf_y in rng.uniform((0, 0.68), (1, 0.85), (14, 2)):
        ellipse(background, leaf_x, leaf_y, 0.05, 0.025, (70, 150, 70))
    sound = strikes(timeline, chirps_s, [chirp(k) for k in range(len(chirps_s))])
    return Parts(background, draw, sound, chirps_s, caption=f"a {name} bird chirping on a branch")


def fireworks(rng: Rng, timeline: Timeline) -> Parts:
    """Rockets that burst: each lights the sky, booms and crackles as its sparks fall."""
    bursts_s, sparks = rhythm(rng, timeline, 0.55, 1.1), 70
    n = len(bursts_s)
    names, sizes = rng.choice(list(COLOURS), n), rng.uniform(0.5, 1, n)
    origins = rng.uniform((0.2, 0.2), (0.8, 0.5), (n, 2))
    heading, pace = rng.uniform(0, 6.28, (n, sparks)), np.sqrt(rng.uniform(0.3, 1, (n, sparks)))

    def draw(canvas: Array, k: int) -> None:
        for b, age in enumerate(timeline.frame_s[k] - bursts_s):
            x, y = origins[b]
            if -0.5 < age < 0:
                line(canvas, x, y - age * 1.5, x, y - age * 1.5 + 0.06, 0.015, (255, 220, 150))
            if 0 <= age < 1.2:
                colour = COLOURS[names[b]]
                glow(canvas, x, y, 0.35 * sizes[b], colour, 1.2 * sizes[b] * np.exp(-age / 0.12))
                reach = 0.36 * sizes[b] * pace[b] * (1 - np.exp(-age / 0.25))
                scatter(
                    canvas,
                    x + reach * np.cos(heading[b]),
                    y + reach * np.sin(heading[b]) + 0.18 * age**2,
                    np.float32(colour) * 1.3 * (1 - age / 1.2),
                )

    s, rate = span(timeline, 1.0), timeline.sample_rate

    def burst(size: float) -> Array:
        boom = 1.6 * noise(rng, len(s), 50, 300, rate) * np.exp(-s / 0.12)
        sparkle = (rng.uniform(0, 1, len(s) // 128 + 1) > 0.9).repeat(128)[: len(s)]
        return size * (boom + 0.9 * noise(rng, len(s), 2500, 8000, rate) * sparkle * np.exp(-s / 0.35) * (s > 0.05))

    background = gradient(timeline, (5, 5, 20), tuple(rng.uniform(15, 45, 3)))
    for left in np.arange(0, 1, 0.125):
        box(background, left, 1 - rng.uniform(0.06, 0.2), left + 0.11, 1.1, (8, 8, 14))
    sound = strikes(timeline, bursts_s, [burst(size) for size in sizes])
    return Parts(background, draw, sound, bursts_s, caption="fireworks bursting in the night sky over a town")


def thunder(rng: Rng, timeline: Timeline) -> Parts:
    """A near thunderstorm: lightning lights the clouds with the crack, and they flicker while it rolls."""
    strikes_s = rhythm(rng, timeline, 0.9, 1.7)
    gains = rng.uniform(0.6, 1, len(strikes_s))
    bolts = [bolt(rng) for _ in strikes_s]
    tint = np.float32(rng.uniform((150, 150, 190), (220, 200, 255)))
    cloud = clouds(rng, timeline.size)
    samples, rate = len(timeline.sample_s), timeline.sample_rate
    roll = strikes(timeline, strikes_s, [g * np.exp(-span(timeline, 3) / 0.5) for g in gains])
    rumble = noise(rng, samples, 35, 140, rate) * roll
    crack = strikes(timeline, strikes_s, [g * np.exp(-span(timeline, 0.4) / 0.05) for g in gains])
    crack *= noise(rng, samples, 500, 5000, rate)

    def draw(canvas: Array, k: int) -> None:
        t = timeline.frame_s[k]
        light = fading(t, strikes_s, 0.12, gains).max(initial=0) * (0.75 + 0.25 * np.cos(70 * t))
        afterglow = 0.25 * fading(t, strikes_s, 0.5, gains).max(initial=0)
        canvas += (cloud * (light + afterglow))[..., None] * tint
        for struck, points in zip(strikes_s, bolts, strict=True):
            if 0 <= t - struck < 0.16:
                for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
                    line(canvas, x0, y0, x1, y1, 0.018, (255, 255, 235))
        box(canvas, -0.1, 0.88, 1.1, 1.1, (8, 10, 12))

    background = gradient(timeline, (28, 28, 44), (48, 46, 62))
    background += 22 * cloud[..., None]
    sound = rumble + 0.8 * crack
    return Parts(background, draw, sound, strikes_s, caption="lightning flashing and thunder rolling through dark clouds")


def xylophone(rng: Rng, timeline: Timeline) -> Parts:
    """Coloured bars, long and low at the left, short and high at the right; each lights as it is struck."""
    notes_s = rhythm(rng, timeline, 0.18, 0.42)
    bars, base_hz = len(COLOURS), rng.uniform(420, 600)
    played = np.abs((rng.integers(bars) + np.cumsum(rng.integers(-2, 3, len(notes_s)))) % (2 * bars - 2) - (bars - 1))
    gains = rng.uniform(0.6, 1, len(notes_s))
    scale = base_hz * 2 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16]) / 12)

    def draw(canvas: Array, k: int) -> None:
        t = timeline.frame_s[k]
        for bar, colour in enumerate(COLOURS.values()):
            hits = notes_s[played == bar]
            ringing = fading(t, hits, 0.18, gains[played == bar]).max(initial=0)
            half, x = 0.36 - 0.022 * bar, 0.08 + 0.12 * bar
            lit = tuple((0.55 + 0.1 * ringing) * c + 120 * ringing for c in colour)
            box(canvas, x - 0.05, 0.55 - half, x + 0.05, 0.55 + half, lit)
        near = int(abs(notes_s - t).argmin())
        lift = min(1.0, abs(notes_s[near] - t) / 0.09)
        x, y = 0.08 + 0.12 * played[near], 0.55 - 0.22 * lift
        line(canvas, x, y, x + 0.12, y + 0.55, 0.02, (90, 60, 40))
        ellipse(canvas, x, y, 0.045, 0.045, (250, 250, 245))

    def voice(bar: int) -> Array:
        s, f = span(timeline, 0.9), scale[bar]
        return np.sin(2 * np.pi * f * s) * np.exp(-s / 0.22) + 0.35 * np.sin(2 * np.pi * 3.93 * f * s) * np.exp(-s / 0.05)

    background = gradient(timeline, *(tuple(0.3 * c for c in colour) for colour in _pastel(rng)))
    sound = strikes(timeline, notes_s, [g * voice(bar) for g, bar in zip(gains, played, strict=True)])
    return Parts(background, draw, sound, notes_s, caption="a melody played on a xylophone with coloured bars")


def _pastel(rng: Rng) -> tuple[Colour, Colour]:
    """A light background, top and bottom."""
    top = rng.uniform(150, 215, 3)
    return tuple(top), tuple(0.55 * top + 0.45 * 240)


def _sized(value: float, middle: float) -> str:
    return "small" if value < middle else "large"


# A scene's place here is its place in the round that `write_scenes` goes; append, never reorder.
SCENES: tuple[Callable[[Rng, Timeline], Parts], ...] = (
    ball, rain, siren, drum, waves, engine, bird, fireworks, thunder, xylophone,
)
