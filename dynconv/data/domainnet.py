"""DomainNet's published facts: names and order of its classes, and the counts of both versions of its lists."""

from __future__ import annotations

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")

# Their places are the numbers in the publisher's lists (sorted without a look at case and punctuation); the files'
# names count from 1: t-shirt is 327 in a list and painting_328_... below its folder.
_CLASSES = """
    aircraft_carrier airplane alarm_clock ambulance angel animal_migration ant anvil apple arm asparagus axe backpack
    banana bandage barn baseball baseball_bat basket basketball bat bathtub beach bear beard bed bee belt bench bicycle
    binoculars bird birthday_cake blackberry blueberry book boomerang bottlecap bowtie bracelet brain bread bridge
    broccoli broom bucket bulldozer bus bush butterfly cactus cake calculator calendar camel camera camouflage campfire
    candle cannon canoe car carrot castle cat ceiling_fan cello cell_phone chair chandelier church circle clarinet clock
    cloud coffee_cup compass computer cookie cooler couch cow crab crayon crocodile crown cruise_ship cup diamond
    dishwasher diving_board dog dolphin donut door dragon dresser drill drums duck dumbbell ear elbow elephant envelope
    eraser eye eyeglasses face fan feather fence finger fire_hydrant fireplace firetruck fish flamingo flashlight
    flip_flops floor_lamp flower flying_saucer foot fork frog frying_pan garden garden_hose giraffe goatee golf_club
    grapes grass guitar hamburger hammer hand harp hat headphones hedgehog helicopter helmet hexagon hockey_puck
    hockey_stick horse hospital hot_air_balloon hot_dog hot_tub hourglass house house_plant hurricane ice_cream jacket
    jail kangaroo key keyboard knee knife ladder lantern laptop leaf leg light_bulb lighter lighthouse lightning line
    lion lipstick lobster lollipop mailbox map marker matches megaphone mermaid microphone microwave monkey moon
    mosquito motorbike mountain mouse moustache mouth mug mushroom nail necklace nose ocean octagon octopus onion oven
    owl paintbrush paint_can palm_tree panda pants paper_clip parachute parrot passport peanut pear peas pencil penguin
    piano pickup_truck picture_frame pig pillow pineapple pizza pliers police_car pond pool popsicle postcard potato
    power_outlet purse rabbit raccoon radio rain rainbow rake remote_control rhinoceros rifle river roller_coaster
    rollerskates sailboat sandwich saw saxophone school_bus scissors scorpion screwdriver sea_turtle see_saw shark sheep
    shoe shorts shovel sink skateboard skull skyscraper sleeping_bag smiley_face snail snake snorkel snowflake snowman
    soccer_ball sock speedboat spider spoon spreadsheet square squiggle squirrel stairs star steak stereo stethoscope
    stitches stop_sign stove strawberry streetlight string_bean submarine suitcase sun swan sweater swing_set sword
    syringe table teapot teddy-bear telephone television tennis_racquet tent The_Eiffel_Tower The_Great_Wall_of_China
    The_Mona_Lisa tiger toaster toe toilet tooth toothbrush toothpaste tornado tractor traffic_light train tree triangle
    trombone truck trumpet t-shirt umbrella underwear van vase violin washing_machine watermelon waterslide whale wheel
    windmill wine_bottle wine_glass wristwatch yoga zebra zigzag"""
CLASSES = tuple(_CLASSES.split())


def _splits(train: tuple[int, ...], test: tuple[int, ...]) -> dict[str, dict[str, int]]:
    return {name: {"train": a, "test": b} for name, a, b in zip(DOMAINS, train, test, strict=True)}


# M3SDA (Peng et al., ICCV 2019), the table of the data set's splits.
ORIGINAL = _splits((34019, 37087, 52867, 120750, 122563, 49115), (14818, 16114, 22892, 51750, 52764, 21271))
# The cleaned lists: their sums are the counts on the publisher's page.
CLEANED = _splits((33525, 36023, 50416, 120750, 120906, 48212), (14604, 15582, 21850, 51750, 52041, 20916))
# The cleaned lists lost these, as was reported to the publisher (VisionLearningGroup/VisionLearningGroup.github.io#16).
CLEANED_ABSENT = {"painting": {"train": ("t-shirt",), "test": ("syringe",)}}


def lists_of(version: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Domain and split to the places, below the data root, where the list of a version ("original", "cleaned") may be:
    in a folder of the version, or beside the domains' folders."""
    return {
        domain: {
            split: tuple(f"domainnet/{place}{domain}_{split}.txt" for place in (f"{version}/", ""))
            for split in ("train", "test")
        }
        for domain in DOMAINS
    }


def how_to_get(version: str) -> str:
    """Where to click for a version, which files, and where to put them."""
    other = "domainnet-cleaned:clipart" if version == "original" else "domainnet:clipart"
    return (
        f"its authors (Peng et al., ICCV 2019) link it from https://ai.bu.edu/M3SDA: of the table of the {version} "
        f"version take the six archives (clipart.zip to sketch.zip) and the twelve lists ({DOMAINS[0]}_train.txt to "
        f"{DOMAINS[-1]}_test.txt). Unpack the archives in a folder domainnet, so that it holds "
        f"clipart/aircraft_carrier/... to sketch/zigzag/..., and put the lists in domainnet/{version}, or beside the "
        f"folders if you have one version only. Both versions share the folders of images ({other} reads the "
        "other's lists); clipart.zip and painting.zip are linked once for each version: to have both, unpack the "
        "original ones first and the cleaned ones over them"
    )
