"""Class names that do not come with the pictures, in the order of their labels."""

EUROSAT_NAMES = (
    "annual crop land",
    "forest",
    "brushland or shrubland",
    "highway or road",
    "industrial buildings or commercial buildings",
    "pasture land",
    "permanent crop land",
    "residential buildings or homes or apartments",
    "river",
    "lake or sea",
)
"""What prompts call the ten classes of EuroSAT (Radford et al. 2021), in the order of their folders."""
_FMOW = """
airport airport_hangar airport_terminal amusement_park aquaculture archaeological_site barn border_checkpoint
burial_site car_dealership construction_site crop_field dam debris_or_rubble educational_institution
electric_substation factory_or_powerplant fire_station flooded_road fountain gas_station golf_course
ground_transportation_station helipad hospital impoverished_settlement interchange lake_or_pond lighthouse
military_facility multi-unit_residential nuclear_powerplant office_building oil_or_gas_facility park
parking_lot_or_garage place_of_worship police_station port prison race_track railway_bridge recreational_facility
road_bridge runway shipyard shopping_mall single-unit_residential smokestack solar_farm space_facility stadium
storage_tank surface_mine swimming_pool toll_booth tower tunnel_opening waste_disposal water_treatment_facility
wind_farm zoo
"""
FMOW_NAMES = tuple(_FMOW.split())
"""The 62 categories of WILDS FMoW, as its tables write them."""
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TINY_IMAGENET = """
goldfish, european fire salamander, bullfrog, tailed frog, american alligator, boa constrictor, trilobite, scorpion,
black widow, tarantula, centipede, goose, koala, jellyfish, brain coral, snail, slug, sea slug, american lobster,
spiny lobster, black stork, king penguin, albatross, dugong, chihuahua, yorkshire terrier, golden retriever, labrador
retriever, german shepherd, standard poodle, tabby, persian cat, egyptian cat, cougar, lion, brown bear, ladybug, fly,
bee, grasshopper, walking stick, cockroach, mantis, dragonfly, monarch, sulphur butterfly, sea cucumber, guinea pig,
hog, ox, bison, bighorn, gazelle, arabian camel, orangutan, chimpanzee, baboon, african elephant, lesser panda,
abacus, academic gown, altar, apron, backpack, bannister, barbershop, barn, barrel, basketball, bathtub, beach wagon,
beacon, beaker, beer bottle, bikini, binoculars, birdhouse, bow tie, brass, broom, bucket, bullet train, butcher shop,
candle, cannon, cardigan, cash machine, cd player, chain, chest, christmas stocking, cliff dwelling, computer
keyboard, confectionery, convertible, crane, dam, desk, dining table, drumstick, dumbbell, flagpole, fountain, freight
car, frying pan, fur coat, gasmask, go-kart, gondola, hourglass, ipod, jinrikisha, kimono, lampshade, lawn mower,
lifeboat, limousine, magnetic compass, maypole, military uniform, miniskirt, moving van, nail, neck brace, obelisk,
oboe, organ, parking meter, pay-phone, picket fence, pill bottle, plunger, pole, police van, poncho, pop bottle,
potter's wheel, projectile, punching bag, reel, refrigerator, remote control, rocking chair, rugby ball, sandal,
school bus, scoreboard, sewing machine, snorkel, sock, sombrero, space heater, spider web, sports car, steel arch
bridge, stopwatch, sunglasses, suspension bridge, swimming trunks, syringe, teapot, teddy, thatch, torch, tractor,
triumphal arch, trolleybus, turnstile, umbrella, vestment, viaduct, volleyball, water jug, water tower, wok, wooden
spoon, comic book, plate, guacamole, ice cream, ice lolly, pretzel, mashed potato, cauliflower, bell pepper, mushroom,
orange, lemon, banana, pomegranate, meat loaf, pizza, potpie, espresso, alp, cliff, coral reef, lakeside, seashore,
acorn
"""
TINY_IMAGENET_NAMES = tuple(" ".join(name.split()) for name in _TINY_IMAGENET.split(","))
"""The first WordNet synonym of each class of Tiny ImageNet, in the order of their identifiers (wnids)."""
DIGITS = tuple(map(str, range(10)))
_LIMITS = tuple(f"red and white circle {speed} kph speed limit" for speed in (20, 30, 50, 60, 70, 80))
GTSRB_NAMES = (
    *_LIMITS,
    "end / de-restriction of 80 kph speed limit",
    *(f"red and white circle {speed} kph speed limit" for speed in (100, 120)),
    "red and white circle red car and black car no passing",
    "red and white circle red truck and black car no passing",
    "red and white triangle road intersection warning",
    "white and yellow diamond priority road",
    "red and white upside down triangle yield right-of-way",
    "stop",
    "empty red and white circle",
    "red and white circle no truck entry",
    "red circle with white horizonal stripe no entry",
    "red and white triangle with exclamation mark warning",
    "red and white triangle with black left curve approaching warning",
    "red and white triangle with black right curve approaching warning",
    "red and white triangle with black double curve approaching warning",
    "red and white triangle rough / bumpy road warning",
    "red and white triangle car skidding / slipping warning",
    "red and white triangle with merging / narrow lanes warning",
    "red and white triangle with person digging / construction / road work warning",
    "red and white triangle with traffic light approaching warning",
    "red and white triangle with person walking warning",
    "red and white triangle with child and person walking warning",
    "red and white triangle with bicyle warning",
    "red and white triangle with snowflake / ice warning",
    "red and white triangle with deer warning",
    "white circle with gray strike bar no speed limit",
    "blue circle with white right turn arrow mandatory",
    "blue circle with white left turn arrow mandatory",
    "blue circle with white forward arrow mandatory",
    "blue circle with white forward or right turn arrow mandatory",
    "blue circle with white forward or left turn arrow mandatory",
    "blue circle with white keep right arrow mandatory",
    "blue circle with white keep left arrow mandatory",
    "blue circle with white arrows indicating a traffic circle",
    "white circle with gray strike bar indicating no passing for cars has ended",
    "white circle with gray strike bar indicating no passing for trucks has ended",
)
"""What prompts call the 43 traffic signs of GTSRB (Radford et al. 2021, spelling included), in the order of labels."""
