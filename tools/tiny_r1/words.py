"""Words, names, things and topics that questions are made of."""

WORDS = """apple orange banana cherry grape lemon melon peach pear plum mango papaya apricot blueberry raspberry
strawberry blackberry cranberry coconut avocado tomato potato carrot onion garlic pepper cabbage spinach lettuce
cucumber pumpkin mushroom celery radish turnip ginger parsley basil mint rosemary bread butter cheese yogurt cream
honey sugar flour pasta noodle pizza burger sandwich soup salad cookie muffin pancake waffle biscuit chocolate
candy coffee juice water dog cat horse mouse rabbit tiger lion bear wolf fox deer goat sheep cow chicken duck goose
turkey pigeon sparrow eagle falcon parrot penguin ostrich flamingo dolphin whale shark salmon trout turtle lizard
snake frog toad spider beetle butterfly mosquito dragonfly squirrel hamster monkey gorilla elephant giraffe zebra
camel kangaroo koala panda hippo rhino crocodile alligator buffalo river lake ocean mountain valley forest desert
island beach meadow garden canyon volcano glacier waterfall bridge road street avenue highway tunnel tower castle
palace temple church museum library school college station airport harbor market bakery kitchen bathroom bedroom
window door floor ceiling roof wall stair chair table couch pillow blanket curtain carpet mirror lamp candle clock
watch bottle glass plate spoon fork knife bowl kettle oven fridge freezer toaster blender basket bucket hammer
screwdriver wrench ladder shovel needle thread button zipper pocket jacket sweater shirt trousers skirt dress
stocking shoe boot glove scarf helmet umbrella necklace bracelet earring pencil crayon eraser ruler notebook paper
scissors envelope stamp letter parcel ticket passport wallet purse camera phone laptop keyboard printer monitor
speaker microphone guitar violin piano trumpet drum flute cello concert theatre cinema picture painting sculpture
dancer singer actor writer teacher doctor nurse farmer baker butcher carpenter plumber pilot sailor soldier lawyer
judge artist engineer scientist student brother sister mother father uncle cousin nephew grandmother neighbor
friend winter spring summer autumn january february march april august september october november december monday
tuesday wednesday thursday friday saturday sunday morning evening midnight yesterday tomorrow century rainbow
thunder lightning hurricane tornado blizzard sunshine moonlight shadow silence whisper laughter courage freedom
justice wisdom beauty kindness patience mystery history science mathematics geometry algebra physics chemistry
biology language grammar alphabet sentence paragraph chapter dictionary encyclopedia magazine newspaper journey
adventure treasure victory battle kingdom emperor soldier peasant merchant balloon bicycle motorcycle airplane
helicopter submarine rocket satellite planet galaxy universe asteroid telescope microscope crystal diamond emerald
silver copper marble granite cotton leather plastic rubber wooden golden purple yellow orange crimson happy angry
hungry thirsty sleepy gentle clever brave honest simple famous ancient modern little enormous mississippi tennessee
california committee address success occurrence possession bookkeeper assessment""".split()

NAMES = """Anna Ben Carl Dora Emma Finn Grace Hugo Iris Ivan Jack Kate Leo Lily Max Mia Nina Noah Oscar Paul Quinn Rosa
Ruth Sam Sara Tina Tom Uma Vera Victor Will Wendy Yara Zoe Amy Bob Cleo Dan Ella Fred""".split()

THINGS = """apples pears marbles books stones balloons coins shells stickers pencils cookies eggs flowers beads cards
stamps lemons carrots buttons keys cups plates toys bricks tickets ribbons candles nuts plums bottles""".split()

BOXES = """boxes bags baskets crates jars shelves trays packs""".split()

PLACES = "kitchen library shop farm school garden market museum factory hotel".split()

TOPICS = """the weather|politics|the stock market|football|the moon|cooking|quantum physics|the capital of France|love|
the meaning of life|my future|history|Shakespeare|dinosaurs|the ocean|cars|music|the news|medicine|philosophy|
black holes|your favourite film|space travel|gardening|chess|the Roman Empire|poetry|taxes|the internet|dreams|
photography|climate change|basketball|fashion|religion|volcanoes|vaccines|the economy|art|travel to Japan""".replace(
    "\n", "").split("|")

SYLLABLES = """ba be bi bo bu ca ce co cra dra de di do dru fa fe fi fo fle ga ge gi go gra gru ha he hi ho hu ja jo ka
ke ki la le li lo lu ma me mi mo mu na ne ni no nu pa pe pi po pra pu ra re ri ro ru sa se shi so sta su ta te ti to
tra tu tiv va ve vi vo wa we wi wo ya yo za ze zi zo ant est ing oll und isk amp ort""".split()

CONSONANTS = "bcdfghjklmnpqrstvwxyz"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
