from models.spec import ImageShape


def test_a_shape_in_words():
    assert str(ImageShape(channels=1, size=8)) == "8 x 8 x 1"
    assert str(ImageShape(channels=3, size=32, classes=10)) == "32 x 32 x 3 with 10 classes"
