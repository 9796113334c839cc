"""What the demo's pictures show: subjects, colours, places, and the scene that a picture and its caption share.

A subject is a short list of shapes in a box of 100 x 100: the shape, its colour, its points. Colours are one letter:
c the scene's colour, d the same darker, l the same lighter; the others are fixed (see INKS).
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.demo.dice import Dice

Colour = tuple[int, int, int]

INKS: dict[str, Colour] = {
    "w": (250, 248, 240),
    "k": (48, 46, 56),
    "b": (124, 84, 54),
    "y": (248, 200, 72),
    "g": (66, 140, 84),
    "r": (206, 62, 58),
    "s": (250, 232, 196),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Name:
    """A noun or adjective in the three languages of the demo's pages; `measure` is its Chinese measure word."""

    zh: str
    en: str
    ja: str
    measure: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that a picture shows: its name and its shapes."""

    name: Name
    shapes: str


@dataclass(frozen=True, slots=True)
class Paint:
    """A colour with its name."""

    name: Name
    rgb: Colour


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture plays: its name, colours of sky and ground, and what is drawn on them."""

    name: Name
    sky: Colour
    ground: Colour
    detail: str


def _subject(zh: str, measure: str, en: str, ja: str, shapes: str) -> Subject:
    return Subject(Name(zh=zh, en=en, ja=ja, measure=measure), shapes)


def _paint(zh: str, en: str, ja: str, rgb: Colour) -> Paint:
    return Paint(Name(zh=zh, en=en, ja=ja), rgb)


SUBJECTS: list[Subject] = [
    _subject(
        "房子", "座", "house", "家",
        "rect l 20,46 80,96; poly c 8,50 50,12 92,50; rect d 64,14 74,34; rect b 43,66 57,96; "
        "rect s 26,56 38,68; rect s 62,56 74,68",
    ),
    _subject(
        "大树", "棵", "tree", "木",
        "rect b 44,58 56,98; oval c 10,26 56,70; oval c 42,24 90,70; oval l 24,4 76,54; oval d 36,40 66,66",
    ),
    _subject(
        "帆船", "艘", "sailing boat", "帆船",
        "rect b 47,6 50,74; poly c 52,8 52,66 90,66; poly l 45,18 45,66 14,66; poly d 4,72 96,72 82,94 18,94; "
        "poly w 8,76 92,76 90,80 10,80",
    ),
    _subject(
        "小鱼", "条", "fish", "魚",
        "poly d 70,50 98,24 92,50 98,76; oval c 6,24 80,76; poly d 34,30 56,8 62,30; poly l 36,52 60,44 58,64; "
        "oval w 16,38 30,52; oval k 20,42 27,49",
    ),
    _subject(
        "花朵", "朵", "flower", "花",
        "rect g 47,52 53,98; poly g 52,88 84,66 70,92; oval c 34,4 66,38; oval c 12,20 46,54; oval c 54,20 88,54; "
        "oval l 20,40 52,74; oval l 48,40 80,74; oval y 36,28 64,56",
    ),
    _subject(
        "风筝", "只", "kite", "凧",
        "poly c 50,2 86,36 50,74 14,36; poly l 50,2 86,36 50,36; poly d 50,74 14,36 50,36; line k 50,74 42,86; "
        "line k 42,86 54,98; poly r 36,80 48,86 38,92",
    ),
    _subject(
        "星星", "颗", "star", "星",
        "poly c 50,3 61,37 97,37 68,58 79,93 50,72 21,93 32,58 3,37 39,37; "
        "poly l 50,20 57,42 79,42 61,55 68,76 50,63 32,76 39,55 21,42 43,42",
    ),
    _subject(
        "雨伞", "把", "umbrella", "傘",
        "rect k 48,6 52,90; pie c 6,10 94,98 180,360; pie l 34,10 66,98 180,360; pie d 6,10 34,98 270,360; "
        "oval b 52,82 68,98",
    ),
    _subject(
        "茶杯", "个", "tea cup", "湯のみ",
        "oval d 66,36 96,70; oval s 74,44 88,62; poly c 12,26 80,26 72,84 20,84; oval l 12,16 80,36; "
        "oval b 18,20 74,33; oval d 6,82 86,94; poly l 20,42 28,42 30,74 26,74",
    ),
    _subject(
        "汽车", "辆", "car", "自動車",
        "poly c 22,46 34,22 68,22 82,46; rect c 4,46 96,72; poly s 28,45 37,28 49,28 49,45; "
        "poly s 53,45 53,28 65,28 74,45; rect l 4,56 96,61; oval k 14,60 38,86; oval k 62,60 86,86; "
        "oval w 21,67 31,79; oval w 69,67 79,79; oval y 88,48 97,57",
    ),
    _subject(
        "气球", "个", "balloon", "風船",
        "line k 50,74 46,99; oval c 18,4 82,74; oval l 30,14 46,36; poly d 50,72 42,82 58,82",
    ),
    _subject(
        "灯笼", "盏", "lantern", "提灯",
        "line k 50,0 50,14; rect y 36,12 64,20; oval c 10,18 90,76; oval l 28,18 72,76; oval c 42,18 58,76; "
        "rect y 36,74 64,82; line r 42,82 42,98; line r 50,82 50,99; line r 58,82 58,98",
    ),
    _subject(
        "蝴蝶", "只", "butterfly", "蝶",
        "oval c 4,8 48,56; oval c 52,8 96,56; oval d 14,48 48,90; oval d 52,48 86,90; oval l 14,18 36,42; "
        "oval l 64,18 86,42; oval y 24,60 38,76; oval y 62,60 76,76; oval k 46,22 54,84; line k 49,24 38,6; "
        "line k 51,24 62,6",
    ),
    _subject(
        "蘑菇", "朵", "mushroom", "きのこ",
        "poly s 38,48 62,48 68,92 32,92; pie c 6,8 94,92 180,360; oval w 20,26 34,38; oval w 44,14 60,28; "
        "oval w 66,28 80,40; rect d 6,47 94,52",
    ),
    _subject(
        "苹果", "个", "apple", "りんご",
        "oval c 8,24 58,94; oval c 42,24 92,94; oval l 18,36 34,58; line b 50,30 54,8; poly g 54,20 78,4 72,24",
    ),
    _subject(
        "蛋糕", "个", "cake", "ケーキ",
        "rect c 12,54 88,92; rect l 24,30 76,56; rect d 12,66 88,74; oval w 24,26 76,38; rect w 12,52 88,57; "
        "rect s 47,8 53,30; oval y 45,1 55,12; oval r 30,26 38,34; oval r 62,26 70,34",
    ),
    _subject(
        "茶壶", "把", "teapot", "急須",
        "oval d 70,34 98,72; oval s 77,42 91,64; poly c 22,66 2,34 12,32 34,50; oval c 18,30 82,90; "
        "oval l 34,20 66,38; oval d 44,10 56,22; oval l 28,42 42,62; rect d 32,86 68,94",
    ),
    _subject(
        "雪人", "个", "snowman", "雪だるま",
        "oval w 20,46 80,98; oval w 30,16 70,56; rect k 34,12 66,20; rect k 40,0 60,14; poly r 50,36 68,40 50,42; "
        "oval k 40,28 45,34; oval k 55,28 60,34; rect c 30,50 70,58; poly c 58,56 70,56 68,80 60,80; "
        "oval k 47,66 53,72; oval k 47,80 53,86",
    ),
    _subject(
        "灯塔", "座", "lighthouse", "灯台",
        "poly w 36,30 64,30 72,96 28,96; poly c 35,42 65,42 67,56 33,56; poly c 31,70 69,70 71,84 29,84; "
        "rect k 32,26 68,31; rect y 38,14 62,27; poly d 34,14 50,1 66,14",
    ),
    _subject(
        "火箭", "枚", "rocket", "ロケット",
        "poly y 38,78 62,78 50,100; poly d 34,54 14,84 36,78; poly d 66,54 86,84 64,78; "
        "poly w 34,32 50,2 66,32 66,80 34,80; poly c 34,32 50,2 66,32; oval k 42,38 58,54; oval l 45,41 55,51; "
        "rect c 34,68 66,76",
    ),
    _subject(
        "帐篷", "顶", "tent", "テント",
        "poly c 50,12 96,92 4,92; poly l 50,12 66,92 34,92; poly k 50,44 60,92 40,92; line b 50,2 50,14; "
        "poly r 50,2 64,6 50,10",
    ),
    _subject(
        "小猫", "只", "cat", "猫",
        "poly c 16,44 18,6 44,26; poly c 84,44 82,6 56,26; oval c 10,18 90,92; poly s 22,30 22,16 34,26; "
        "poly s 78,30 78,16 66,26; oval w 26,42 42,58; oval w 58,42 74,58; oval k 31,44 38,57; oval k 63,44 70,57; "
        "poly r 45,62 55,62 50,68; line k 50,68 42,76; line k 50,68 58,76; line k 8,62 30,66; line k 92,62 70,66",
    ),
    _subject(
        "小鸟", "只", "bird", "小鳥",
        "poly d 30,56 2,42 8,66; oval c 18,32 78,84; oval c 54,14 92,52; poly y 90,30 100,36 88,40; "
        "oval w 70,24 82,36; oval k 75,27 80,33; poly l 26,48 60,44 44,72; line b 42,82 40,97; line b 54,82 56,97",
    ),
    _subject(
        "礼盒", "个", "gift box", "贈り物の箱",
        "rect c 12,40 88,94; rect d 8,28 92,44; rect y 44,28 56,94; oval y 24,8 52,32; oval y 48,8 76,32; "
        "oval d 32,14 46,26; oval d 54,14 68,26",
    ),
    _subject(
        "南瓜", "个", "pumpkin", "かぼちゃ",
        "poly g 46,28 44,8 58,4 54,28; oval d 4,28 50,92; oval d 50,28 96,92; oval c 16,24 60,94; oval c 40,24 84,94; "
        "oval l 34,24 66,94",
    ),
    _subject(
        "热气球", "个", "hot-air balloon", "熱気球",
        "oval c 10,2 90,72; oval l 28,2 72,72; oval d 43,2 57,72; poly c 22,56 78,56 60,78 40,78; line k 40,78 42,88; "
        "line k 60,78 58,88; rect b 40,86 60,99",
    ),
    _subject(
        "小鸭子", "只", "duck", "あひる",
        "poly d 8,48 2,30 30,52; oval c 6,44 78,92; oval c 46,10 86,54; poly y 84,28 100,34 84,42; "
        "oval w 62,22 74,34; oval k 67,25 73,31; oval l 20,54 56,78",
    ),
    _subject(
        "闹钟", "个", "alarm clock", "目覚まし時計",
        "oval d 12,6 42,32; oval d 58,6 88,32; line k 26,84 16,97; line k 74,84 84,97; oval c 10,14 90,92; "
        "oval w 20,24 80,82; line k 50,53 50,32; line k 50,53 66,60; oval r 46,49 54,57",
    ),
]  # fmt: skip

STAR = next(subject for subject in SUBJECTS if subject.name.en == "star")

PAINTS: list[Paint] = [
    _paint("红色", "red", "赤い", (216, 54, 52)),
    _paint("橙色", "orange", "オレンジ色の", (240, 134, 40)),
    _paint("黄色", "yellow", "黄色い", (246, 206, 56)),
    _paint("绿色", "green", "緑の", (64, 160, 74)),
    _paint("青色", "cyan", "青緑の", (40, 178, 184)),
    _paint("蓝色", "blue", "青い", (48, 98, 208)),
    _paint("紫色", "purple", "紫の", (134, 72, 190)),
    _paint("粉色", "pink", "ピンクの", (244, 128, 170)),
    _paint("棕色", "brown", "茶色い", (146, 92, 56)),
    _paint("金色", "golden", "金色の", (222, 172, 48)),
]

PLACES: list[Place] = [
    Place(Name(zh="海边", en="by the sea", ja="海辺"), (150, 204, 236), (46, 120, 176), "waves"),
    Place(Name(zh="草原", en="on the grassland", ja="草原"), (164, 210, 240), (104, 168, 72), "grass"),
    Place(Name(zh="沙漠", en="in the desert", ja="砂漠"), (244, 208, 156), (216, 168, 96), "dunes"),
    Place(Name(zh="雪地", en="in the snow", ja="雪原"), (172, 196, 222), (232, 238, 246), "snow"),
    Place(Name(zh="城市", en="in the city", ja="都会"), (186, 190, 214), (112, 112, 124), "skyline"),
    Place(Name(zh="森林", en="in the forest", ja="森"), (176, 214, 196), (98, 140, 88), "pines"),
    Place(Name(zh="花园", en="in the garden", ja="庭園"), (206, 222, 240), (120, 172, 96), "blossoms"),
    Place(Name(zh="湖边", en="by the lake", ja="湖畔"), (196, 214, 236), (88, 150, 178), "ripples"),
    Place(Name(zh="田野", en="in the fields", ja="畑"), (214, 216, 196), (168, 150, 78), "furrows"),
    Place(Name(zh="山谷", en="in the valley", ja="谷間"), (188, 200, 232), (110, 146, 104), "mountains"),
]

# The light of a time of day: name, what it adds to the sky and to the ground.
TIMES: list[tuple[Name, Colour, Colour]] = [
    (Name(zh="清晨", en="in the morning", ja="朝"), (30, 4, -14), (8, 4, 0)),
    (Name(zh="中午", en="at noon", ja="昼"), (0, 0, 0), (0, 0, 0)),
    (Name(zh="傍晚", en="at dusk", ja="夕方"), (44, -46, -90), (0, -24, -20)),
    (Name(zh="夜晚", en="at night", ja="夜"), (-104, -112, -70), (-84, -88, -56)),
    (Name(zh="雨后", en="after the rain", ja="雨上がり"), (-40, -30, -20), (-24, -10, -4)),
]

SIDES: list[str] = ["左边", "中间", "右边"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What one picture shows; `key` seeds everything that the caption does not say."""

    key: str
    subject: Subject
    paint: Paint
    count: int
    side: int
    other: Subject
    other_paint: Paint
    place: Place
    time: int
    width: int
    height: int


def scene(seed: int, number: int) -> Scene:
    """Return the scene of the picture with this number; subjects and places go round, so that all appear early."""
    dice = Dice(seed, "scene", number)
    subject = (number * 11 + dice.below(2)) % len(SUBJECTS)
    other = (subject + 1 + dice.below(len(SUBJECTS) - 1)) % len(SUBJECTS)
    paint = dice.below(len(PAINTS))
    other_paint = (paint + 1 + dice.below(len(PAINTS) - 1)) % len(PAINTS)
    width = dice.between(240, 400)
    return Scene(
        key=f"{seed}/{number}",
        subject=SUBJECTS[subject],
        paint=PAINTS[paint],
        count=dice.pick([1, 1, 1, 2, 2, 3]),
        side=dice.below(3),
        other=SUBJECTS[other],
        other_paint=PAINTS[other_paint],
        place=PLACES[number % len(PLACES)],
        time=dice.below(len(TIMES)),
        width=width,
        height=width * dice.between(64, 112) // 100,
    )
