"""Sets of pictures in files: listings, folders of images, torchvision's sets, and how pictures are decoded."""
