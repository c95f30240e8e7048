"""What layouts share: the grid of tiles that has an image's ratio, and the cutting of a scaled image into tiles."""

from PIL import Image

from vlmzoo_registry import ImageSize


def tiles(image: Image.Image, rows: int, columns: int) -> list[Image.Image]:
    """An image whose sides are multiples of `rows` and `columns`, cut into equal tiles, row by row."""
    height, width = image.height // rows, image.width // columns
    return [
        image.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
        for row in range(rows)
        for column in range(columns)
    ]


def closest_grid(size: ImageSize, view: ImageSize, least: int, most: int) -> tuple[int, int]:
    """The rows and columns of `least` to `most` tiles whose ratio is closest to that of an image (InternVL 1.5, section 3.3).

    Of several grids of that ratio it is the one with most tiles, as long as the image has more than half their pixels.
    """
    height, width = size
    grids = [(rows, columns) for columns in range(1, most + 1) for rows in range(1, most + 1)]
    chosen, smallest = (1, 1), float("inf")
    for rows, columns in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        if not least <= rows * columns <= most:
            continue
        distance = abs(width / height - columns / rows)
        fills = 2 * height * width > rows * columns * view[0] * view[1]
        if distance < smallest or (distance == smallest and fills):
            chosen, smallest = (rows, columns), distance
    return chosen
