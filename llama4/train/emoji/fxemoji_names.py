"""What the icons of fxemoji show whose names say it in the set's own way, found by looking at them.

Mozilla's files were called u1F474-gpa.svg; the package kept "gpa" and dropped the code point. A name that ends in a bare `=`
shows no emoji of the list, whatever it is called: "beating-heart" does not beat, question and exclamation mark are black where
the name says red, "window" is one of a computer's, and "heartblue", "tramcar" and "fog" are too damaged to be known again.
"""

from __future__ import annotations

_ANIMALS = """bunny=🐰 bunnyside=🐇 cat=🐱 catside=🐈 cow=🐄 dog=🐶 dogside=🐕 dragonhead=🐲 dragonside=🐉
frontfacingchick=🐥 hampster=🐹 horse=🐎 leopardside=🐆 monkeyhear=🙉 monkeysee=🙈 monkeyspeak=🙊 mouse=🐭
mouseside=🐁 pig=🐷 pigside=🐖 pigsnout=🐽 spurtingwhale=🐳 tiger=🐯 tigerside=🐅 whale=🐋"""

_FACES = """anguish=😧 crying=😢 devilhorns=😈 dissapointedrelief=😥 frownmouth=😦 grineyes=😁 grinsquint=😆
grinsweat=😅 grintears=😂 grinwide=😃 grinwideeyes=😄 halo=😇 kiss=😗 kissclosedeyes=😚 kisseyes=😙 loudlycrying=😭
medicalmask=😷 neutral=😐 perservere=😣 poo=💩 pouting=😡 screamfear=😱 smallfrown=🙁 smallsmile=🙂 smileeyes=😊
smiletongue=😋 sunglasses=😎 tired=😫 tongueout=😛 tongueoutwink=😜 tongueoutwink2=😝 winking=😉
japaneseangrymask=👺"""

_PEOPLE = """aok=👌 blonde=👱 bowing=🙇 bride=👰 bunny-ears=👯 construct=👷 contact=👤 contact2=👥 down=👇
fistedhand=👊 flexbicep=💪 frown=🙍 girlgirl=👭 girlguy=👫 gma=👵 gpa=👴 guapimao=👲 guyguy=👬 hands=👐 handup=🙋
headmassage=💆 high5=🙌 index=☝ left=👈 leftwritinghand=✍ nogesture=🙅 okgesture=🙆 pout=🙎
raisedhandpartfingers=🖖 raisedhandsfingerssplayed=🖐 right=👉 sleuthspy=🕵 swimming=🏊 turban=👳 waitress=💁
waving=👋"""

_NATURE = """acorn=🌰 americasglobe=🌎 asiaaustraliaglobe=🌏 beachumbrella=🏖 umbrella=🌂 fog= bolt=⚡
chilipepper=🌶 europeafricaglobe=🌍 evergreen=🌲 fallingleaf=🍂 fishcakeswirl=🍥 icecream=🍨 leaffluttering=🍃
meridianglobe=🌐 silhouetteohjapan=🗾 snowmountains=🏔 stormcloud=🌩 sunbehindcloud=⛅ sunraincloud=🌦 sunrays=☀
sweatsplash=💦 waningbibbousmoon=🌖 whitesunbehindcloud=🌥 whitesunsmallcloud=🌤"""

_THINGS = """ballottboxwithballott=🗳 banknotedollar=💵 banknoteeuro=💶 banknotepound=💷 banknoteyen=💴
bellcancellation=🔕 blackskullcrossbones=☠ bookmarktab=📑 window= tramcar= construction=🏗 constructionsign=🚧
calendar=📅 cellphone=📱 chartdownwardstrend=📉 chartupwardstrend=📈 chartupwardstrendyen=💹 closedmailboxlowered=📪
closedmailboxraised=📫 confetti=🎊 controlknob=🎛 email=📧 envelopedownarrowabove=📩 forkknife=🍽 framewithtiles=🖼
heels=👠 highspeedtrainbulletnose=🚅 leftmagnifyingglass=🔍 lockandkey=🔐 makeupbag=👝 manltepiececlock=🕰
mansshirt=👕 mensrunner=👟 mensshoe=👞 notebookdecorativecover=📔 openmailboxlowered=📭 openmailboxraised=📬
outbox=📤 pencil=✏ phonerightarrowleft=📲 pinkwallet=👛 present=🎁 printericon=🖨 racecar=🏎 reminder=🎗
rightmagnifyingglass=🔎 ringingbell=🔔 sandals=👡 speaker3soundwaves=🔊 speakercancellation=🔇
speakeronesoundwave=🔉 studiomic=🎙 tennisball=🎾 thoughtbaloon=💭 tie=👔 toykotower=🗼 train=🚆 videocasette=📼
wiredkeyboard=⌨ womansshirt=👚"""

_SIGNS = """2hearts=💕 anticlockwiseupwardsanddownwardsarrows=🔄 arrowrightwardsdownwards=⤵
arrowrightwardsupwards=⤴ backwithleftwardsarrow=🔙 beating-heart= blackdownpointingdoublearrow=⏬
blackleftpointingarrow=◀ blackleftpointingdoublearrow=⏪ blackrightpointingarrow=▶
blackrightpointingdoublearrow=⏩ blackuppointingdoublearrow=⏫ diamondshapewithdotinside=💠 cjkunifiedideograph-a=🈯
cjkunifiedideograph-b=🈺 cjkunifiedideograph-c=🈲 cjkunifiedideograph-d=🈳 cjkunifiedideograph-e=🈴
cjkunifiedideograph-f=🈵 cjkunifiedideograph-g=🈶 cjkunifiedideograph-h=🈷 cjkunifiedideograph-i=🈚
cjkunifiedideograph-j=🈸 cjkunifiedideograph-k=🈹 clock12oclock=🕛 clock12thirty=🕧 clock1oclock=🕐 clock1thirty=🕜
clock2oclock=🕑 clock2thirty=🕝 clock3oclock=🕒 clock3thirty=🕞 clock4oclock=🕓 clock4thirty=🕟 clock5thirty=🕠
clock6oclock=🕕 clock6thirty=🕡 clock7oclock=🕖 doubleexclaimationmark=‼ downpointingsmallredtrisngle=🔽
eightspokedasterix=✳ endwithleftwardsarrow=🔚 exclaimationquestionmark=⁉ heartarrow=💘 heartblue= heartgreen=💚
heartpurple=💜 heartribbon=💝 heartyellow=💛 heavyexclaimationmarksymbol= heavylatincross=✝
heavymultiplicationsymbol=✖ negativesquaredlatincaptiala=🅰 negativesquaredlatincaptialb=🅱
negativesquaredlatincaptialo=🅾 nooneunder18symbol=🔞 onarrowleftright=🔛 potablewatersystem=🚰 saggitarius=♐
sixpointedstarwithdot=🔯 soonwithrightarrow=🔜 squaredup=🆙 ten=🔟 topwithupwardsarrow=🔝
uppointingsmallredtrisngle=🔼 whiteexclaimationmark=❕"""

FXEMOJI_NAMES: dict[str, str] = dict(
    pair.split("=") for block in (_ANIMALS, _FACES, _PEOPLE, _NATURE, _THINGS, _SIGNS) for pair in block.split()
)
