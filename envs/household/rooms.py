"""What a home consists of: rooms, receptacles, objects, what fits where. Tables only."""

from types import MappingProxyType


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ROOMS = MappingProxyType(
    {
        "kitchen": {
            "cabinet": (0, 4),
            "coffeemachine": (0, 1),
            "countertop": (1, 3),
            "diningtable": (0, 1),
            "drawer": (0, 4),
            "fridge": (1, 1),
            "garbagecan": (0, 1),
            "microwave": (1, 1),
            "shelf": (0, 2),
            "sidetable": (0, 1),
            "sinkbasin": (1, 1),
            "stoveburner": (0, 4),
            "toaster": (0, 1),
        },
        "bedroom": {
            "armchair": (0, 1),
            "bed": (1, 1),
            "cabinet": (0, 2),
            "desk": (1, 2),
            "drawer": (0, 5),
            "dresser": (0, 1),
            "garbagecan": (0, 1),
            "laundryhamper": (0, 1),
            "safe": (0, 1),
            "shelf": (0, 4),
            "sidetable": (0, 2),
        },
        "bathroom": {
            "bathtubbasin": (0, 1),
            "cabinet": (0, 4),
            "countertop": (1, 2),
            "drawer": (0, 4),
            "garbagecan": (0, 1),
            "handtowelholder": (0, 2),
            "laundryhamper": (0, 1),
            "shelf": (0, 2),
            "sinkbasin": (1, 2),
            "toilet": (1, 1),
            "toiletpaperhanger": (0, 1),
            "towelholder": (0, 2),
        },
        "livingroom": {
            "armchair": (0, 2),
            "cabinet": (0, 3),
            "coffeetable": (1, 2),
            "diningtable": (0, 1),
            "drawer": (0, 4),
            "dresser": (0, 1),
            "garbagecan": (0, 1),
            "ottoman": (0, 1),
            "safe": (0, 1),
            "shelf": (0, 3),
            "sidetable": (0, 3),
            "sofa": (1, 2),
            "tvstand": (0, 1),
        },
    }
)
"""Receptacle types of each room, with the least and the most that one room has."""

OPENABLE = frozenset({"cabinet", "drawer", "fridge", "laundryhamper", "microwave", "safe"})

_FOOD = "countertop diningtable fridge garbagecan microwave sinkbasin"
_DISH = "cabinet countertop diningtable fridge microwave shelf sidetable sinkbasin"
_CUTLERY = "countertop diningtable drawer sinkbasin"
_POT = "cabinet countertop diningtable fridge sinkbasin stoveburner"
_SPICE = "cabinet countertop diningtable drawer shelf sidetable"
_BOTTLE = "cabinet countertop diningtable fridge garbagecan shelf sidetable"
_SMALL = "bed coffeetable desk diningtable drawer dresser safe shelf sidetable sofa tvstand"
_DECORATION = "coffeetable desk diningtable dresser safe shelf sidetable tvstand"
_SOFT = "armchair bed laundryhamper ottoman sofa"
_LARGE = "armchair bed coffeetable desk diningtable dresser ottoman shelf sofa tvstand"
_TOILETRY = "bathtubbasin cabinet countertop drawer garbagecan shelf sinkbasin toilet"

FITS = MappingProxyType(
    {
        name: frozenset(places.split())
        for name, places in {
            "alarmclock": "bed desk dresser drawer shelf sidetable",
            "apple": _FOOD + " sidetable",
            "baseballbat": "armchair bed desk dresser shelf sofa",
            "basketball": "armchair bed desk dresser laundryhamper ottoman sofa",
            "book": _LARGE + " cabinet drawer sidetable",
            "bowl": _DISH + " coffeetable desk dresser",
            "box": _LARGE + " cabinet sidetable",
            "bread": "countertop diningtable fridge garbagecan microwave toaster",
            "butterknife": _CUTLERY,
            "candle": _TOILETRY + " coffeetable desk dresser sidetable",
            "cd": "bed coffeetable desk drawer dresser garbagecan safe shelf sidetable",
            "cellphone": _SMALL + " armchair",
            "cloth": _TOILETRY + " handtowelholder laundryhamper bed dresser",
            "creditcard": _SMALL,
            "cup": _DISH,
            "dishsponge": _TOILETRY,
            "egg": _FOOD,
            "fork": _CUTLERY,
            "glassbottle": _BOTTLE,
            "handtowel": "bathtubbasin countertop handtowelholder laundryhamper sinkbasin",
            "houseplant": "coffeetable countertop desk diningtable dresser shelf sidetable",
            "kettle": "cabinet countertop diningtable shelf sinkbasin stoveburner",
            "keychain": _SMALL + " armchair ottoman",
            "knife": _CUTLERY,
            "ladle": _CUTLERY + " cabinet",
            "laptop": "armchair bed coffeetable desk diningtable dresser ottoman sofa",
            "lettuce": _FOOD,
            "mug": _DISH + " coffeemachine desk dresser",
            "newspaper": "armchair cabinet coffeetable diningtable drawer garbagecan ottoman "
            "sidetable sofa tvstand",
            "pan": _POT,
            "pen": "bed coffeetable desk drawer dresser garbagecan shelf sidetable",
            "pencil": "bed coffeetable desk drawer dresser garbagecan shelf sidetable",
            "peppershaker": _SPICE,
            "pillow": _SOFT,
            "plate": _DISH,
            "plunger": "bathtubbasin cabinet countertop toilet",
            "pot": _POT,
            "potato": _FOOD,
            "remotecontrol": "armchair coffeetable diningtable drawer dresser ottoman shelf "
            "sidetable sofa tvstand",
            "saltshaker": _SPICE,
            "scrubbrush": "bathtubbasin cabinet countertop sinkbasin toilet",
            "soapbar": _TOILETRY,
            "soapbottle": _TOILETRY,
            "spatula": _CUTLERY,
            "spoon": _CUTLERY,
            "spraybottle": _TOILETRY,
            "statue": _DECORATION,
            "teddybear": _SOFT + " desk dresser shelf",
            "tennisracket": "armchair bed desk dresser sofa",
            "tissuebox": _TOILETRY + " coffeetable desk dresser sidetable tvstand",
            "toiletpaper": _TOILETRY + " toiletpaperhanger",
            "tomato": _FOOD,
            "towel": "bathtubbasin countertop laundryhamper towelholder",
            "vase": _DECORATION + " cabinet",
            "watch": _SMALL + " armchair",
            "wateringcan": "coffeetable desk diningtable dresser shelf sidetable",
            "winebottle": "cabinet countertop diningtable fridge garbagecan shelf",
        }.items()
    }
)
"""Receptacle types that hold each object type: where it may stand, and where it may be put."""

LAMPS = MappingProxyType(
    {
        "desklamp": frozenset({"coffeetable", "desk", "dresser", "shelf", "sidetable"}),
        "floorlamp": frozenset({"coffeetable", "desk", "dresser", "sidetable", "tvstand"}),
    }
)
"""Receptacle types beside which each lamp stands. Lamps are used, never carried."""
LIT_ROOMS = ("bedroom", "livingroom")

OBJECTS = MappingProxyType(
    {
        "kitchen": _names(
            "apple bowl bread butterknife cup dishsponge egg fork glassbottle kettle knife "
            "ladle lettuce mug pan peppershaker plate pot potato saltshaker soapbottle "
            "spatula spoon tomato winebottle"
        ),
        "bedroom": _names(
            "alarmclock baseballbat basketball book bowl box cd cellphone cloth creditcard "
            "keychain laptop mug pen pencil pillow statue teddybear tennisracket tissuebox "
            "vase watch"
        ),
        "bathroom": _names(
            "candle cloth dishsponge handtowel plunger scrubbrush soapbar soapbottle "
            "spraybottle tissuebox toiletpaper towel"
        ),
        "livingroom": _names(
            "book bowl box cellphone creditcard houseplant keychain laptop newspaper pen "
            "pencil pillow remotecontrol statue tissuebox vase watch wateringcan"
        ),
    }
)
"""Object types that occur in each room."""

CLEANABLE = frozenset(
    _names(
        "apple bowl butterknife cloth cup dishsponge egg fork kettle knife ladle lettuce "
        "mug pan plate pot potato soapbar spatula spoon tomato"
    )
)
HEATABLE = frozenset(_names("apple bread cup egg mug plate potato tomato"))
COOLABLE = frozenset(
    _names("apple bowl bread cup egg lettuce mug pan plate pot potato tomato winebottle")
)
SLICEABLE = frozenset(_names("apple bread lettuce potato tomato"))
KNIVES = frozenset({"butterknife", "knife"})
