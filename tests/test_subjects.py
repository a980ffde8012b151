"""Photos in, tensors out: every kind of picture, every kind of mistake, crops, and class pictures."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_dreambooth as tiny
import torch
from PIL import Image

from likeness.errors import InputError
from likeness.subjects import (
    BLOCK,
    MARK,
    ClassRequest,
    check_class_dir,
    class_images,
    crop_photo,
    drawn_class_images,
    find_photos,
    load_photos,
    make_folder,
    open_photo,
    photos_hash,
    write_png,
)


@pytest.fixture
def folder(tmp_path):
    return tiny.save_photos(tmp_path / "photos")


def test_photos_come_in_name_order_with_their_captions(folder):
    (folder / "01.txt").write_text("a tuki man\n  on a beach ")
    (folder / ".DS_Store").write_bytes(b"x")
    photos = find_photos(folder)
    assert [p.path.name for p in photos] == ["00.png", "01.png", "02.png", "03.png"]
    assert [p.caption for p in photos] == [None, "a tuki man on a beach", None, None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.jpg", b"\xff\xd8\xff nonsense", r"cannot read broken.jpg"),
        ("notes.pdf", b"%PDF", r"not photos: notes.pdf"),
        ("lonely.txt", b"a caption", r"captions without a photo: lonely.txt"),
        ("00.txt", b"  \n", r"00.txt is empty"),
        ("00.txt", b"\xff\xfe\x00", r"not UTF-8"),
    ],
)
def test_wrong_files_are_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        find_photos(folder)


def test_cut_and_tiny_photos_are_named(folder):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(folder / "cut.png")
    data = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut.png"):
        find_photos(folder)
    Image.new("RGB", (500, 20)).save(folder / "cut.png")
    with pytest.raises(InputError, match=r"under 64 pixels: cut.png \(500x20\)"):
        find_photos(folder)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_photos(tmp_path / "none")
    with pytest.raises(InputError, match="holds no photos"):
        find_photos(tmp_path)


def test_few_doubled_and_small_photos_are_warned_about(tmp_path):
    folder = tiny.save_photos(tmp_path / "two", 2)
    with pytest.warns(UserWarning, match=r"only 2 photo"):
        find_photos(folder)
    tiny.save_photos(tmp_path / "many", 3)
    Image.open(tmp_path / "many" / "01.png").save(tmp_path / "many" / "again.jpg", quality=95)
    with pytest.warns(UserWarning, match=r"01.png and again.jpg show the same picture"):
        find_photos(tmp_path / "many")
    with pytest.warns(UserWarning, match=r"smaller than the model's 512 pixels: 00.png \(96x96\)"):
        find_photos(folder, resolution=512)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_photos(tiny.save_photos(tmp_path / "fine", 3), resolution=64)


def test_exif_alpha_grey_cmyk_palette_and_16_bit(tmp_path):
    upright = Image.new("RGB", (80, 120), "red")
    upright.paste("blue", (0, 0, 80, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    upright.rotate(90, expand=True).save(tmp_path / "exif.png", exif=exif)
    assert np.array_equal(np.asarray(open_photo(tmp_path / "exif.png")), np.asarray(upright))
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    clear.save(tmp_path / "alpha.png")
    assert open_photo(tmp_path / "alpha.png").getpixel((5, 5)) == (255, 255, 255)
    Image.new("L", (64, 64), 100).save(tmp_path / "grey.png")
    assert open_photo(tmp_path / "grey.png").getpixel((5, 5)) == (100, 100, 100)
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    red = open_photo(tmp_path / "cmyk.jpg").getpixel((5, 5))
    assert red[0] > 200 and max(red[1:]) < 60
    Image.fromarray(np.full((64, 64), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert open_photo(tmp_path / "deep.png").getpixel((5, 5))[0] == pytest.approx(155, abs=1)
    palette = clear.convert("P")
    palette.info["transparency"] = 0
    palette.save(tmp_path / "palette.png", transparency=0)
    assert open_photo(tmp_path / "palette.png").mode == "RGB"


def test_photos_become_tensors(folder):
    images = load_photos(find_photos(folder), 32)
    assert images.shape == (4, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    seeded = load_photos(find_photos(folder), 32, crops=2, flip=True, seed=1)
    assert seeded.shape[0] == 16
    assert torch.equal(seeded[1], seeded[0].flip(-1)) and not torch.equal(seeded[0], seeded[2])
    assert torch.equal(seeded, load_photos(find_photos(folder), 32, crops=2, flip=True, seed=1))
    assert not torch.equal(seeded, load_photos(find_photos(folder), 32, crops=2, flip=True, seed=2))


def test_crops_stay_square_and_inside():
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("white", (100, 0, 200, 100))
    centre = np.asarray(crop_photo(wide, 50, None))
    assert (centre[5:-5, 5:-5] == 255).all(), "the centre crop is the middle third"
    for key in range(20):
        assert crop_photo(wide, 50, (key,)).size == (50, 50)


def test_the_hash_follows_bytes_and_captions(folder, tmp_path):
    known = photos_hash(find_photos(folder))
    assert photos_hash(find_photos(tiny.save_photos(tmp_path / "copy"))) == known
    (folder / "00.txt").write_text("a caption")
    assert photos_hash(find_photos(folder)) != known


def counting_draw(blocks):
    def draw(prompts, noise):
        blocks.append((prompts, noise))
        return [Image.new("RGB", (8, 8), (int(abs(n.sum()) * 100) % 255, k, 0)) for k, n in enumerate(noise)]

    return draw


def test_class_pictures_are_drawn_once_and_never_depend_on_who_asks(tmp_path):
    request, blocks, shape = ClassRequest("m", ("a man", "a dog")), [], (2, 4, 4)
    files = class_images(request, 10, tmp_path, counting_draw(blocks), shape)
    assert len(files) == 10 and len(blocks) == 2 and blocks[0][0] == ["a man", "a dog"] * 4
    assert class_images(request, 16, tmp_path, counting_draw(blocks), shape)[:10] == files and len(blocks) == 2
    kept = [f.read_bytes() for f in files]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert class_images(request, 10, tmp_path, None, shape) == files
    for gone in (1, 9):
        files[gone].unlink()
    files[2].write_bytes(b"torn")
    class_images(request, 10, tmp_path, counting_draw(blocks), shape)
    assert [f.read_bytes() for f in files] == kept and len(blocks) == 4
    assert torch.equal(blocks[2][1], blocks[0][1])


def test_class_pictures_are_counted_without_drawing(tmp_path):
    request = ClassRequest("m", ("a man", "a dog"))
    assert drawn_class_images(request, 10, tmp_path) == (0, 16) and not list(tmp_path.iterdir()), "in whole blocks"
    files = class_images(request, 10, tmp_path, counting_draw([]), (2, 4, 4))
    assert drawn_class_images(request, 10, tmp_path) == (10, 0)
    assert drawn_class_images(request, 17, tmp_path) == (16, 8)
    files[3].unlink()
    assert drawn_class_images(request, 10, tmp_path) == (9, 1)


def test_the_record_of_class_pictures_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    real = Path.write_text

    def half(self, text, *args, **kwargs):
        real(self, text[:20], *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", half)
    request = ClassRequest("model", ("a man",))
    with pytest.raises(KeyboardInterrupt):
        class_images(request, 0, tmp_path, None, (4, 2, 2))
    assert not (request.folder(tmp_path) / "class.json").exists()


@pytest.mark.parametrize("bar", [True, False])
def test_class_pictures_show_a_bar_unless_told(tmp_path, capsys, bar):
    class_images(ClassRequest("m", ("a man",)), 2, tmp_path, counting_draw([]), (2, 4, 4), bar=bar)
    assert ("class pictures" in capsys.readouterr().err) == bar


def test_processes_split_class_pictures_without_duplicates(tmp_path):
    request, shape, shares = ClassRequest("m", ("a man",)), (2, 4, 4), ([], [])
    for rank in (0, 1):
        class_images(request, 4 * BLOCK, tmp_path / "two", counting_draw(shares[rank]), shape, rank=rank, world=2)
    assert len(shares[0]) == len(shares[1]) == 2
    alone = class_images(request, 4 * BLOCK, tmp_path / "one", counting_draw([]), shape)
    for file in alone:
        assert file.read_bytes() == (request.folder(tmp_path / "two") / file.name).read_bytes()


@pytest.mark.parametrize("kind", ["any picture", "another of the set", "edited"])
def test_a_picture_that_is_not_the_one_drawn_is_drawn_again(tmp_path, kind):
    request, shape = ClassRequest("m", ("a man",)), (2, 4, 4)
    files = class_images(request, 3, tmp_path, counting_draw([]), shape)
    kept = files[1].read_bytes()
    if kind == "any picture":
        Image.new("RGB", (8, 8), "red").save(files[1])
    elif kind == "another of the set":
        files[1].write_bytes(files[0].read_bytes())
    else:
        with Image.open(files[1]) as picture:
            mark = picture.info[MARK]
        write_png(Image.new("RGB", (8, 8), "red"), files[1], mark)
    with pytest.warns(UserWarning, match=r"00001\.png is not the class picture drawn for this training: drawn again"):
        class_images(request, 3, tmp_path, counting_draw([]), shape)
    assert files[1].read_bytes() == kept


@pytest.mark.parametrize(
    "change",
    [{"model_id": "n"}, {"prompts": ("x",)}, {"seed": 1}, {"guidance_scale": 3.0}, {"device": "cuda"}],
)
def test_the_key_of_class_pictures_is_what_decides_them(change, tmp_path):
    request = {"model_id": "m", "prompts": ("a man",)}
    assert ClassRequest(**request).folder(tmp_path) != ClassRequest(**request | change).folder(tmp_path)


def test_a_users_class_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        check_class_dir(tmp_path / "none", 4)
    folder = tiny.save_photos(tmp_path / "class", 3)
    assert len(check_class_dir(folder, 3)) == 3
    with pytest.raises(InputError, match="holds 3 pictures, num_class_images=5"):
        check_class_dir(folder, 5)
    (folder / "01.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"cannot read 01.png"):
        check_class_dir(folder, 3)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        make_folder(tmp_path / "file" / "below")
