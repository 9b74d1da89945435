"""What disks, cables and killed copies do to files."""

from random import Random


def damaged(content: bytes, random: Random) -> bytes:
    """The content with a bit flipped, some bytes replaced, a stretch zeroed, its end cut off, or something behind it.

    It differs from the content, which holds at least one byte.
    """
    start = random.randrange(len(content))
    stretch = random.randint(1, max(1, min(4096, len(content) - start)))
    broken = random.choice(
        (
            lambda: content[:start] + bytes([content[start] ^ 1 << random.randrange(8)]) + content[start + 1 :],
            lambda: content[:start] + random.randbytes(stretch) + content[start + stretch :],
            lambda: content[:start] + bytes(stretch) + content[start + stretch :],
            lambda: content[:start],
            lambda: content + random.randbytes(stretch),
        )
    )()
    return broken if broken != content else damaged(content, random)
