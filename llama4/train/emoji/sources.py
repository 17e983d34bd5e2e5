"""The packages that the emoji data is made of, and what each artist's pictures are read from.

All are packages of the npm registry, pinned by version and by the SHA-512 that the registry publishes (`npm view NAME@VERSION
dist.integrity`): a package that has changed is refused. Licences are those that each package's own info.json, package.json or
README states. 0.4 to fourteen megabytes hold a whole SVG set, because iconify packs it into one JSON file; 62 MB hold Twemoji,
of whose package only `emoji.json` and the 64-pixel pictures are read, and 34 MB Noto as it was in 2017.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llama4.train.emoji.dataset import REDRAWN

SIDE = 128  # pixels: what a drawing is rendered at, and what a picture is brought to. Twemoji comes at 64 and stays so.


@dataclass(frozen=True)
class Package:
    """One package: name, version, integrity and size in bytes; who made what is used of it, under which licence."""

    name: str
    version: str
    integrity: str
    size: int
    author: str
    origin: str
    licence: str
    licence_link: str
    remark: str = ""

    @property
    def label(self) -> str:
        """As npm writes it: `@iconify-json/noto@1.2.9`."""
        return f"{self.name}@{self.version}"

    @property
    def archive(self) -> str:
        """The archive's file name here, as `npm pack` chooses it: `iconify-json-noto-1.2.9.tgz`."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def path(self) -> str:
        """Where a registry keeps the archive, below its address: `@iconify-json/noto/-/noto-1.2.9.tgz`."""
        return f"{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


@dataclass(frozen=True)
class Source:
    """Where one artist's pictures are: in which package, in which form, and how a picture's emoji is known.

    form     "iconify": SVG bodies in icons.json; "webp", "png": files named by code points, below `folder`
    codes    the package whose chars.json gives names their code points: the set's own, or another's for a set without one
    numbered several drawings of one emoji, often in several skin colours, are told apart by a digit: "boy-1", "boy-2"
    side     pixels across and down of every picture
    redrawn_of  the artist whose drawings these are, each in some versions of its own (redrawn.py)
    """

    artist: str
    package: Package
    form: str
    codes: Package | None = None
    folder: str = ""
    numbered: bool = False
    side: int = SIDE
    redrawn_of: str = ""


def _iconify(name: str, version: str, integrity: str, size: int, *words: str) -> Package:
    return Package(f"@iconify-json/{name}", version, integrity, size, *words)


_GOOGLE = ("Google", "https://github.com/googlefonts/noto-emoji", "Apache-2.0")
_APACHE_LINK = "https://www.apache.org/licenses/LICENSE-2.0"
_MICROSOFT = ("Microsoft Corporation", "https://github.com/microsoft/fluentui-emoji", "MIT")
_MIT_LINK = "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE"
_BY_LINK = "https://creativecommons.org/licenses/by/4.0/"

NOTO = _iconify(
    "noto",
    "1.2.9",
    "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    3_102_958,
    *_GOOGLE,
    _APACHE_LINK,
)
BLOB = _iconify(
    "noto-v1",
    "1.2.5",
    "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    1_587_591,
    *_GOOGLE,
    _APACHE_LINK,
)
FLUENT = _iconify(
    "fluent-emoji",
    "1.2.7",
    "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    14_323_330,
    *_MICROSOFT,
    _MIT_LINK,
)
FLUENT_FLAT = _iconify(
    "fluent-emoji-flat",
    "1.2.6",
    "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    1_172_438,
    *_MICROSOFT,
    _MIT_LINK,
)
FLUENT_HIGH_CONTRAST = _iconify(
    "fluent-emoji-high-contrast",
    "1.2.6",
    "sha512-esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    1_054_969,
    *_MICROSOFT,
    _MIT_LINK,
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    15_792_027,
    *_MICROSOFT,
    _MIT_LINK,
    "Packaged by LobeHub (copyright 2023, MIT).",
)
EMOJIONE = _iconify(
    "emojione",
    "1.2.3",
    "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    687_690,
    "Emoji One",
    "https://github.com/EmojiTwo/emojitwo",
    "CC-BY-4.0",
    _BY_LINK,
    "Attribution: emoji provided by EmojiOne, version 2.3.0 (https://github.com/EmojiTwo/emojitwo), licensed under CC BY 4.0.",
)
FXEMOJI = _iconify(
    "fxemoji",
    "1.2.2",
    "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    1_034_876,
    "Mozilla",
    "https://github.com/mozilla/fxemoji",
    "Apache-2.0",
    "https://mozilla.github.io/fxemoji/LICENSE.md",
)
STREAMLINE = _iconify(
    "streamline-emojis",
    "1.2.4",
    "sha512-iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
    381_714,
    "Streamline",
    "https://github.com/webalys-hq/streamline-vectors",
    "CC-BY-4.0",
    _BY_LINK,
    "Attribution: Streamline Emojis by Streamline (https://streamlinehq.com), licensed under CC BY 4.0.",
)
NOTO_2017 = Package(
    "emoji-datasource-google",
    "4.0.4",
    "sha512-5sz0aIeNJfta2F4E+PNdOc6bqHWt29vOYtFGBXWZQnrxuSQlLpddd04y9K+P6mHiTYZkMe8z5y0lDeYaODBKmA==",
    33_510_984,
    *_GOOGLE,
    _APACHE_LINK,
    "The pictures are Android 8's, of October 2017. Packaged by Cal Henderson (https://github.com/iamcal/emoji-data, MIT).",
)
TWEMOJI = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
    61_683_754,
    "Twitter, Inc and other contributors",
    "https://github.com/jdecked/twemoji",
    "CC-BY-4.0",
    _BY_LINK,
    "Attribution: Twemoji 16.0.1, copyright Twitter, Inc and other contributors (https://github.com/jdecked/twemoji), graphics"
    " licensed under CC BY 4.0. The package and its emoji.json, from which order and categories are taken, are by Cal Henderson"
    " (https://github.com/iamcal/emoji-data, MIT).",
)
CLDR = Package(
    "cldr-annotations-full",
    "48.2.0",
    "sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    6_537_823,
    "Unicode, Inc.",
    "https://github.com/unicode-org/cldr-json",
    "Unicode-3.0",
    "https://www.unicode.org/license.txt",
)

NAME_PACKAGES = (CLDR, TWEMOJI)

_AS_DRAWN = {
    source.artist: source
    for source in (
        Source("noto", NOTO, "iconify", codes=NOTO),
        Source("fluent", FLUENT, "iconify", codes=FLUENT_FLAT),
        Source("fluent-3d", FLUENT_3D, "webp", folder="package/assets/"),
        Source("fluent-flat", FLUENT_FLAT, "iconify", codes=FLUENT_FLAT),
        Source("fluent-high-contrast", FLUENT_HIGH_CONTRAST, "iconify", codes=FLUENT_HIGH_CONTRAST),
        Source("emojione", EMOJIONE, "iconify", codes=NOTO),
        Source("fxemoji", FXEMOJI, "iconify", codes=NOTO),
        Source("blob", BLOB, "iconify", codes=NOTO),
        Source("streamline", STREAMLINE, "iconify", codes=NOTO, numbered=True),
        Source("noto-2017", NOTO_2017, "png", folder="package/img/google/64/"),
    )
}
_HELD_OUT = Source("twemoji", TWEMOJI, "png", folder="package/img/twitter/64/", side=64)

SOURCES: dict[str, Source] = {
    **_AS_DRAWN,
    **{name: replace(_AS_DRAWN[artist], artist=name, redrawn_of=artist) for artist, name in REDRAWN.items()},
    _HELD_OUT.artist: _HELD_OUT,
}
