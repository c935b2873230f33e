"""Who drew the emoji, under which licence, and in which npm package they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.data.emoji.icons import Drawings, from_files, from_iconify
from training.data.emoji.names import Emojibase
from training.data.emoji.packages import Package


@dataclass(frozen=True)
class Vendor:
    """One style. `read` finds the drawings in the file of its package."""

    style: str  # in the column `vendor`, and in captions
    package: Package
    read: Callable[[Path, Emojibase], Drawings]
    licence: str  # as the Hub writes it
    credit: str


MICROSOFT = "Fluent Emoji, Copyright (c) Microsoft Corporation, https://github.com/microsoft/fluentui-emoji"
GOOGLE = "Noto Emoji, Copyright Google Inc., https://github.com/googlefonts/noto-emoji"

EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
EMOJIBASE_CREDIT = "emojibase, Copyright (c) 2017-2019 Miles Johnson, https://emojibase.dev"
VENDORS = (
    Vendor(
        "noto",
        Package(
            "@iconify-json/noto",
            "1.2.9",
            "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
        from_iconify,
        "apache-2.0",
        GOOGLE,
    ),
    Vendor(
        "noto-v1",
        Package(
            "@iconify-json/noto-v1",
            "1.2.5",
            "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        ),
        from_iconify,
        "apache-2.0",
        GOOGLE,
    ),
    Vendor(
        "fluent",
        Package(
            "@iconify-json/fluent-emoji",
            "1.2.7",
            "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        ),
        from_iconify,
        "mit",
        MICROSOFT,
    ),
    Vendor(
        "fluent-flat",
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
        from_iconify,
        "mit",
        MICROSOFT,
    ),
    Vendor(
        "fluent-3d",
        Package(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        ),
        from_files,
        "mit",
        f"{MICROSOFT}, packaged by LobeHub, Copyright (c) 2023 LobeHub, https://github.com/lobehub/fluent-emoji",
    ),
    Vendor(
        "twemoji",
        Package(
            "@twemoji/svg",
            "15.0.0",
            "ZSPef2B6nBaYnfgdTbAy4jgW95o7pi2xPGwGCU+WMTxo7J6B1lMPTWwSq/wTuiMq+N0khQ90CcvYp1wFoQpo/w==",
        ),
        from_files,
        "cc-by-4.0",
        "Twemoji, Copyright 2020 Twitter, Inc and other contributors, https://github.com/jdecked/twemoji",
    ),
    Vendor(
        "fxemoji",
        Package(
            "@iconify-json/fxemoji",
            "1.2.2",
            "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        ),
        from_iconify,
        "apache-2.0",
        "FxEmojis, Copyright Mozilla Foundation, https://github.com/mozilla/fxemoji",
    ),
    Vendor(
        "emojione",
        Package(
            "@iconify-json/emojione",
            "1.2.3",
            "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        ),
        from_iconify,
        "cc-by-4.0",
        "EmojiOne 2.3, Emoji provided free by EmojiOne, kept by EmojiTwo, https://github.com/EmojiTwo/emojitwo",
    ),
)
APART = (  # styles that are only built by name, and stay out of all training but their own
    Vendor(
        "streamline",
        Package(
            "@iconify-json/streamline-emojis",
            "1.2.4",
            "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        ),
        from_iconify,
        "cc-by-4.0",
        "Streamline Emojis, Copyright Streamline, https://streamlinehq.com",
    ),
)


def vendors_of(style: str | None) -> tuple[Vendor, ...]:
    """All vendors but those apart, or the one of a style. Raises ValueError, with what there is, for another name."""
    if style is None:
        return VENDORS
    chosen = tuple(vendor for vendor in (*VENDORS, *APART) if vendor.style == style)
    if not chosen:
        names = ", ".join(vendor.style for vendor in (*VENDORS, *APART))
        raise ValueError(f"style={style!r}: allowed are {names}; without it, all but {APART[0].style}")
    return chosen
