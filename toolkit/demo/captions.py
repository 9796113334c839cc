"""Captions: Chinese texts that describe a scene, and the texts that the funnel has to drop.

Promise: a caption for `keep` is natural Chinese of 5 to 60 characters with a noun; it is a function of the scene and
its key. The long templates (the paper's captions have 24 characters on average) also make the corpus large enough,
from 2,000 pairs on, for a word that occurs once to fall below the paper's entropy threshold of 6e-4.
"""

from __future__ import annotations

from toolkit.demo.dice import Dice
from toolkit.demo.scenes import SIDES, TIMES, Scene

NUMBERS = {1: "一", 2: "两", 3: "三"}

# p place, t time, n number, m measure word, c colour, s subject, side; o... the same of the second subject.
TEMPLATES: list[str] = [
    "{t}的{p}，{side}有{n}{m}{c}的{s}，旁边还有一{om}{oc}的{os}",
    "一幅描绘{p}风光的水彩插画，画面{side}是{n}{m}{c}的{s}，还能看到{oc}的{os}",
    "{c}的{s}和{oc}的{os}出现在{t}的{p}，卡通风格的手绘素材图片",
    "儿童绘本插图：{t}，{n}{m}{c}的{s}在{p}等待着一{om}{oc}的{os}",
    "手绘{p}风景背景图，搭配{n}{m}{c}的{s}和一{om}{os}，适合制作海报和壁纸",
    "{n}{m}{c}{s}的高清图片，背景是{t}的{p}，可以免费下载使用",
    "学生美术作品《{p}的{s}》，{side}的{s}是{c}，旁边的{os}是{oc}",
    "【{p}】{t}看到的{n}{m}{c}{s}，用水彩颜料画在粗糙的画纸上",
    "装饰画推荐：{oc}的{os}与{c}的{s}，{p}主题，适合挂在客厅的墙上",
    "{p}{t}的景色，画面{side}画着{n}{m}{c}的{s}，另外还画着一{om}{oc}的{os}",
    "可爱的{c}{s}卡通形象，{t}来到{p}，遇见{oc}{os}的故事书封面",
    "幼儿园老师画的{n}{m}{c}{s}和一{om}{oc}的{os}，孩子们说这里是{t}的{p}",
    '"{s}"主题明信片，正面印着{t}的{p}，{c}的{s}在画面的{side}',
    "{c}{s} & {oc}{os}：{p}系列原创插画，描绘一个安静的{t}",
    "这张图片里有{n}{m}{c}的{s}和一{om}{oc}的{os}，画的是{t}的{p}",
    "{p}旅游宣传海报，{t}的天空下有{n}{m}醒目的{c}{s}，设计简洁明快",
    "{c}的{s}",
    "  {t}的{p}，{n}{m}{c}的{s}  ",
]

# Simplified to Traditional, for every character of the templates and names; OpenCC turns each back.
_TRADITIONAL = str.maketrans(
    "与两个书们伞传儿创厅后园图墙壶学师帐张报挂术条来树气洁游灯热爱猫现画盏礼笼筝简红纸绘绿苹荐蓝装见计设说费车载辆"
    "边还这适里钟间闹静顶颗题颜风饰鱼鸟鸭黄",
    "與兩個書們傘傳兒創廳後園圖牆壺學師帳張報掛術條來樹氣潔遊燈熱愛貓現畫盞禮籠箏簡紅紙繪綠蘋薦藍裝見計設說費車載輛"
    "邊還這適裏鐘間鬧靜頂顆題顏風飾魚鳥鴨黃",
)

SYMBOLS: list[str] = ["✨{}✨", "{}❤️", "🎨{}", "★{}★", "{}🌈🌈", "▶{}◀", "{}👍🏻"]

ENGLISH: list[str] = [
    "A {c} {s} {p} {t}",
    "A {c} {s} and a {oc} {os}",
    "Watercolour of a {c} {s} {p}",
    "Free picture: {c} {s} {p}",
]

JAPANESE: list[str] = [
    "{t}の{p}にある{c}{s}のかわいいイラスト",
    "{c}{s}と{oc}{os}が描かれた{p}の風景画です",
    "これは{p}の{c}{s}を描いた絵です",
]

EMOJI: list[str] = ["😀🎉🔥😀🎉🔥", "❤️❤️❤️👍👍👍", "🌸🌸🌸🌸🌸🌸", "✨⭐🌙✨⭐🌙", "🐱🐶🐰🐼🦊🐻"]

STOPWORDS: list[str] = [
    "这就是我们自己的了",
    "这是我的那是你的",
    "它们都在这里了吗",
    "你们怎么还在那里呢",
    "因为所以但是而且",
    "这个和那个都可以的",
    "为什么你会这样的呢",
]

NOUNLESS: list[str] = [
    "非常漂亮又特别便宜",
    "悄悄飞快地跑过去了",
    "真的非常好看极了",
    "轻轻摇晃慢慢落下",
]

# Nouns of the dictionary that occur in no template: each makes a caption of a single rare word.
RARE: list[str] = [
    "长颈鹿", "萤火虫", "大熊猫", "变色龙", "哈密瓜", "发电机", "拖拉机", "起重机", "推土机", "博物馆", "电风扇",
    "缝纫机", "直升机", "洗衣机", "收音机", "电冰箱", "计算机", "摩托车", "图书馆", "体育馆", "水族馆", "动物园",
    "植物园", "火车站", "飞机场", "游泳池", "照相机", "潜水员", "宇航员", "救护车", "电影院", "咖啡馆", "胡萝卜",
]  # fmt: skip

# A mild term of the built-in lexicon, in posters against it.
UNSAFE: list[str] = [
    "抵制色情网站的公益宣传海报",
    "请勿传播色情图片的宣传画册",
    "打击色情广告的校园黑板报图片",
]


def _words(scene: Scene) -> dict[str, str]:
    return {
        "p": scene.place.name.zh,
        "t": TIMES[scene.time][0].zh,
        "n": NUMBERS[scene.count],
        "m": scene.subject.name.measure,
        "c": scene.paint.name.zh,
        "s": scene.subject.name.zh,
        "side": SIDES[scene.side],
        "om": scene.other.name.measure,
        "oc": scene.other_paint.name.zh,
        "os": scene.other.name.zh,
    }


def chinese(scene: Scene, dice: Dice) -> str:
    """Return a caption of the scene in Simplified Chinese."""
    return dice.pick(TEMPLATES).format_map(_words(scene))


def traditional(scene: Scene, dice: Dice) -> str:
    """Return a caption of the scene in Traditional Chinese."""
    return chinese(scene, dice).translate(_TRADITIONAL)


def decorated(scene: Scene, dice: Dice) -> str:
    """Return a caption of the scene among emoji or ornaments that the text stage removes."""
    return dice.pick(SYMBOLS).format(chinese(scene, dice).strip())


def long(scene: Scene, dice: Dice) -> str:
    """Return a caption of the scene that is longer than 60 characters."""
    sentence = dice.pick(TEMPLATES[:5]).format_map(_words(scene))
    return "，".join([sentence] * 3)


def short(scene: Scene, dice: Dice) -> str:
    """Return a caption of the scene that is shorter than 5 characters."""
    return scene.subject.name.zh + dice.pick(["", "图", " "])


def english(scene: Scene, dice: Dice) -> str:
    """Return a caption of the scene in English."""
    return dice.pick(ENGLISH).format_map(
        {
            "p": scene.place.name.en,
            "t": TIMES[scene.time][0].en,
            "c": scene.paint.name.en,
            "s": scene.subject.name.en,
            "oc": scene.other_paint.name.en,
            "os": scene.other.name.en,
        }
    )


def japanese(scene: Scene, dice: Dice) -> str:
    """Return a caption of the scene in Japanese."""
    return dice.pick(JAPANESE).format_map(
        {
            "p": scene.place.name.ja,
            "t": TIMES[scene.time][0].ja,
            "c": scene.paint.name.ja,
            "s": scene.subject.name.ja,
            "oc": scene.other_paint.name.ja,
            "os": scene.other.name.ja,
        }
    )


def filename(dice: Dice) -> str:
    """Return the name that a camera gives a file."""
    return dice.pick(["IMG_{}.jpg", "DSC{}.JPG", "photo-{}.jpeg", "P10{}.JPG"]).format(dice.between(1000, 9999))


def rare(number: int) -> str:
    """Return a caption of one rare word; the numbers go round the list."""
    return f"【{RARE[number % len(RARE)]}】"
