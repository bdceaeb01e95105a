"""Images with a transparent pixel."""

from PIL import Image


def transparent_image(mode):
    """(image of 3 x 2 pixels, options to save it with): transparent, black, and half transparent.

    Palettes and color keys have no half transparent pixel.
    """
    if mode in ("RGBA", "LA"):
        image = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
        image.putpixel((1, 0), (0, 0, 0, 255))
        image.putpixel((2, 0), (0, 0, 0, 128))
        return image.convert(mode), {}
    image = Image.new("RGB", (3, 2), (0, 200, 0))
    image.putpixel((1, 0), (0, 0, 0))
    if mode == "RGB":
        return image, {"transparency": (0, 200, 0)}
    image = image.quantize(2)
    return image, {"transparency": image.getpixel((0, 0))}
