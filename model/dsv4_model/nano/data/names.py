"""Random names for generated repositories: identifiers, paths, words and sentences.

Every name belongs to one of two disjoint halves, decided by a hash of the name itself: `TRAIN` names are
seen in training, `HELD_OUT` names only in evaluation.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from enum import StrEnum

HELD_OUT_SHARE = 8
"""One name in this many is held out."""

NOUNS = """account action address agent alarm album alert amount anchor angle answer apple archive area array arrow
asset atlas author badge balance band bank banner barrel basket batch beacon bean bell bench bird block board boat
book border bottle bound box branch brick bridge bucket budget buffer bundle button cabin cable cache camera canvas
card cargo carton cart castle cell chain chair channel chart check chunk circle city claim class client clock cloud
coin color column comet compass cookie copper corner count coupon course cover crate crew crown cube cup currency
curve customer cycle daemon date deck degree depth desk detail device diary dish disk distance dock domain door
draft drawer dream driver drone drum duty eagle edge effect element engine entry error event expense factor falcon
farm feather feed fence field figure filter finger flag flame flask fleet floor flow flower folder font forest
fork forum frame friend fruit fuel gadget garden gate gauge ghost giant glass globe goal grade grain graph grid
group guard guest guide hammer handle harbor hash hat header heap height hill hint hook horse host hotel hour
house hub icon image index inlet input invoice island item jacket jar jewel job journal key kite label ladder lake
lamp lane language laptop layer leaf ledger lemon length lens letter level lever library light limit line link lion
list lock log loop lot magnet mail map margin mark market mask matrix meadow measure medal meter method metric mill
minute mirror model module moon motor mount mouse nest net node note number nut oak object ocean offer office
option orbit order organ origin outlet output oven owl owner page paint pair palette panel paper parcel park part
path pattern payment peak pearl pen pencil permit phone photo piano picture piece pilot pipe pixel plan planet
plant plate plot pocket point pool port portal post potion price printer profile project prompt proxy pulse pump
quota rabbit radar radio rail rain range rate ratio reader receipt record region report request result reward ribbon
ring river road robot rocket role roof room root rope rose route row rule sample sand scale scene schema school score
screen script seat second secret section sector seed segment sensor series server session shadow shape sheet shelf
shell shield ship shop signal silver size skill slot smoke snow socket sound source space spark speed spike sprite
square stack staff stage stair stamp star state station status step stock stone store storm story stream street
string studio sugar suite summary summit sun supply surface switch symbol system table tag tail tank target task tax
team temple tenant term theme thread ticket tide tiger timer title token tool topic torch total tower town track
trade trail train tree trend tunnel turtle unit update user valley value vault vector vehicle vendor version vessel
view village violin voice volume voucher wagon wall wallet water wave weather week weight wheel whale width wind
window wing winter wire wolf word worker world yard year zebra zone""".split()

VERBS = """add adjust allocate append apply archive assign attach bind build bump calculate cancel check clean clear
clone close collect combine compare compute connect convert copy count create decode delete deliver describe detect
disable discard dispatch draw drop emit enable encode enqueue ensure estimate evaluate expand export extract fetch
fill filter find finish flush format gather generate get group guess handle hide import inspect install join launch
limit list load locate lock lookup make map mark match measure merge move normalize notify open pack paint parse pay
pick plan play print process publish pull push query read rebuild receive record reduce refresh register release
reload remove render repair repeat replace report request reserve reset resize resolve restore retry return reverse
rotate round run save scan schedule search select send serve set shift show shrink skip sort split start stop store
submit sum swap sync test toggle trace track transfer translate trim unlock unpack update upload validate verify
visit wait walk wrap write""".split()

ADJECTIVES = """active amber ancient basic big blank blue bold brief bright broken busy calm cheap clean clear cold
common cool crisp daily dark deep dirty double dry dusty early eager easy empty equal exact extra faint fast final
fine first fixed flat free fresh full gentle global golden good grand gray great green happy hard heavy hidden high
hollow hot huge idle inner intense kind large last late lazy light local lone long loose loud low lucky main major
minor mixed narrow near new next nice noisy odd old open orange outer pale perfect plain polite prime private proper
proud public pure purple quick quiet rapid rare raw ready real red remote rich right rough round royal safe secret
sharp short shy silent simple single slow small smart smooth soft solid sour spare stable steady still strange strict
strong sweet swift tall tame tidy tiny total tough true upper urgent usual vague valid vast vivid warm weak wet white
wide wild wise yellow young""".split()

_ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr fl gr kl pl pr st tr sh th".split()
_VOWELS = "a e i o u ai ea oo".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "k", "x"]


class Split(StrEnum):
    """Which half of the names may be drawn."""

    TRAIN = "train"
    HELD_OUT = "held-out"


def is_held_out(name: str) -> bool:
    """Whether a name is reserved for evaluation; depends on nothing but its letters."""
    return zlib.crc32(name.lower().replace("_", "").encode()) % HELD_OUT_SHARE == 0


class Names:
    """A seeded source of names of one split; `unique` names never repeat and never contain one another."""

    def __init__(self, rng: random.Random, split: Split = Split.TRAIN) -> None:
        self.rng = rng
        self.split = split
        self._taken: set[str] = set()

    def syllables(self) -> str:
        """A pronounceable word that no dictionary holds, such as `brotel`."""
        n = self.rng.choice((2, 2, 3))
        return "".join(
            self.rng.choice(_ONSETS) + self.rng.choice(_VOWELS) + self.rng.choice(_CODAS) for _ in range(n)
        )

    def noun(self) -> str:
        return self.rng.choice(NOUNS) if self.rng.random() < 0.85 else self.syllables()

    def verb(self) -> str:
        return self.rng.choice(VERBS) if self.rng.random() < 0.9 else self.syllables()

    def adjective(self) -> str:
        return self.rng.choice(ADJECTIVES)

    def word(self) -> str:
        return self.rng.choice((self.noun, self.noun, self.verb, self.adjective))()

    def unique(self, make: Callable[[], str]) -> str:
        """Draw from `make` until the name is new, belongs to the split and is no part of another name."""
        for _ in range(1000):
            name = make()
            if is_held_out(name) != (self.split is Split.HELD_OUT) or len(name) < 4:
                continue
            plain = name.lower()
            if any(plain in old or old in plain for old in self._taken):
                continue
            self._taken.add(plain)
            return name
        raise RuntimeError("the pool of names is exhausted; draw fewer names from one repository")

    def snake(self) -> str:
        """A function or variable name: `merge_basket`, `total`, `open_blue_gate`."""
        return self.unique(lambda: "_".join(self._parts()))

    def camel(self) -> str:
        def make() -> str:
            first, *rest = self._parts()
            return first + "".join(p.capitalize() for p in rest)

        return self.unique(make)

    def pascal(self) -> str:
        return self.unique(lambda: "".join(p.capitalize() for p in self._parts()))

    def constant(self) -> str:
        return self.unique(lambda: "_".join(self._parts()).upper())

    def _parts(self) -> list[str]:
        match self.rng.randrange(10):
            case 0:
                return [self.noun()]
            case 1:
                return [self.syllables()]
            case 2:
                return [self.verb(), self.adjective(), self.noun()]
            case 3 | 4:
                return [self.noun(), self.noun()]
            case 5:
                return [self.adjective(), self.noun()]
            case _:
                return [self.verb(), self.noun()]

    def stem(self) -> str:
        """A file's stem: `basket`, `blue_gate`."""
        return self.unique(
            lambda: self.noun() if self.rng.random() < 0.6 else f"{self.noun()}_{self.rng.choice(NOUNS)}"
        )

    def folder(self) -> str:
        return self.rng.choice(("", "", "src/", "lib/", "app/", "core/", f"{self.noun()}/"))

    def sentence(self, low: int = 3, high: int = 7) -> str:
        """A plain sentence of random words without final stop."""
        words = [self.word() for _ in range(self.rng.randint(low, high))]
        if len(words) > 1:
            linking = ("the", "a", "of", "and", "to", "in", "for")
            words.insert(self.rng.randrange(1, len(words)), self.rng.choice(linking))
        return " ".join(words).capitalize()

    def value(self) -> str:
        """A configuration value: a number, a word, a version, a path."""
        rng = self.rng
        match rng.randrange(6):
            case 0 | 1:
                return str(rng.randrange(1, 10 ** rng.randint(1, 5)))
            case 2:
                return f"{rng.randrange(10)}.{rng.randrange(30)}.{rng.randrange(10)}"
            case 3:
                return f"{self.word()}-{self.word()}"
            case 4:
                return f"{self.noun()}.{rng.choice(('com', 'org', 'net', 'dev'))}"
            case _:
                return self.word()


def misspell(name: str, rng: random.Random) -> str:
    """The name with one slip of the keyboard: two letters swapped, one dropped or one doubled."""
    letters = [i for i in range(1, len(name) - 1) if name[i].isalpha() and name[i + 1].isalpha()]
    for _ in range(50):
        i = rng.choice(letters)
        match rng.randrange(3):
            case 0:
                slip = name[:i] + name[i + 1] + name[i] + name[i + 2 :]
            case 1:
                slip = name[:i] + name[i + 1 :]
            case _:
                slip = name[:i] + name[i] + name[i:]
        if slip != name:
            return slip
    return name + name[-1]
