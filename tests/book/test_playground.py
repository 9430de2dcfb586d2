"""The playground: its mathematics is the library's, on worlds that nobody chose; a browser drives
it.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from book_site import first_paint

from dil_tutorial.bregman import Generator
from dil_tutorial.losses import make_loss
from toy import World, optima
from toy.fit import fit

HERE = Path(__file__).parents[2] / "book" / "assets" / "playground"
needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="needs node, to run the page's mathematics"
)
TYPED = {  # formulas that a reader may type, and the same in torch
    "-log(r)": lambda r: -r.log(),
    "r*log(r) - (1+r)*log(1+r) + r^2/10": lambda r: (
        r * r.log() - (1 + r) * (1 + r).log() + r**2 / 10
    ),
    "exp(-r) + r*log(r)": lambda r: torch.exp(-r) + r * r.log(),
    "1/sqrt(r)": lambda r: r**-0.5,
}


def node(code, given):
    """What a script says, with the playground's mathematics as D and ``given`` as G."""
    script = f"const D = require({str(HERE / 'math.js')!r}); const G = JSON.parse(require('fs').readFileSync(0)); {code}"  # noqa: E501
    done = subprocess.run(
        ["node", "-e", script], input=json.dumps(given), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_the_laws_are_the_librarys_on_a_thousand_worlds():
    rng = torch.Generator().manual_seed(0)
    ref = torch.rand(1000, 5, generator=rng, dtype=torch.float64) ** 2 + 1e-3
    ref, reward = (
        ref / ref.sum(1, keepdim=True),
        3 * torch.randn(1000, 5, generator=rng, dtype=torch.float64),
    )
    upper = torch.rand(1000, 5, 5, generator=rng, dtype=torch.float64).triu(1)
    anyone = upper + (1 - upper).transpose(1, 2).tril(-1) + 0.5 * torch.eye(5, dtype=torch.float64)
    beta = torch.rand(1000, generator=rng, dtype=torch.float64) * 2 + 0.1
    transitive = World.from_reward(ref, reward)
    worlds = {"rewards": transitive, "any": World(ref, anyone)}
    given = {
        "ref": ref.tolist(),
        "reward": reward.tolist(),
        "any": anyone.tolist(),
        "beta": beta.tolist(),
    }
    found = node(
        """
        const out = G.ref.map((ref, i) => {
          const over = (policy) => policy.map((p, y) => p / ref[y]);
          const ends = (P) => ["lsif", "ukl", "bce"].map(
            (h) => D.published(ref, over(D.chosen(ref, P)), over(D.rejected(ref, P)), D.RATIO[h]));
          const of = (P) => [D.chosen(ref, P), D.rejected(ref, P), ...ends(P)];
          const P = D.bradleyTerry(G.reward[i]);
          return {P, rlhf: D.rlhf(ref, G.reward[i], G.beta[i]), rewards: of(P), any: of(G.any[i])};
        });
        console.log(JSON.stringify(out));
        """,
        given,
    )

    def close(mine, theirs):
        torch.testing.assert_close(
            torch.tensor(mine, dtype=torch.float64), theirs, rtol=0, atol=1e-9
        )

    close([row["P"] for row in found], transitive.preference)
    tilted = torch.softmax(ref.log() + reward / beta[:, None], 1)
    close([row["rlhf"] for row in found], tilted)
    for kind, world in worlds.items():
        laws = [
            world.chosen,
            world.rejected,
            *(optima.dil(world, h, "rejected") for h in ("lsif", "ukl", "bce")),
        ]
        for place, law in enumerate(laws):
            close([row[kind][place] for row in found], law)


@needs_node
def test_of_any_labeler_dpo_fits_the_reward_that_the_library_does():
    rng = torch.Generator().manual_seed(2)
    ref = torch.rand(50, 5, generator=rng, dtype=torch.float64) + 0.02
    upper = torch.rand(50, 5, 5, generator=rng, dtype=torch.float64).triu(1)
    anyone = upper + (1 - upper).transpose(1, 2).tril(-1) + 0.5 * torch.eye(5, dtype=torch.float64)
    world = World(ref / ref.sum(1, keepdim=True), anyone)
    code = """
        console.log(JSON.stringify(G.ref.map((ref, i) => {
          const reward = D.fittedReward(ref, D.winRate(ref, G.P[i]));
          return D.rlhf(ref, reward, G.beta);
        })));
    """
    for beta in (0.5, 1.0):
        given = {"ref": world.ref.tolist(), "P": world.preference.tolist(), "beta": beta}
        found = torch.tensor(node(code, given), dtype=torch.float64)
        wanted = fit(world, make_loss("dpo", beta=beta))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    always = [[0.5, 1.0], [0.0, 0.5]]  # who always wins has no finite reward
    code = "console.log(JSON.stringify(D.fittedReward(G.ref, D.winRate(G.ref, G.P))));"
    assert node(code, {"ref": [0.5, 0.5], "P": always}) is None


@needs_node
@pytest.mark.parametrize("formula", TYPED)
def test_a_typed_generator_ends_where_the_librarys_does(formula):
    rng = torch.Generator().manual_seed(1)
    ref = torch.rand(50, 4, generator=rng, dtype=torch.float64) + 0.05
    world = World.from_reward(
        ref / ref.sum(1, keepdim=True), torch.randn(50, 4, generator=rng, dtype=torch.float64)
    )
    code = """
        const h2 = D.generator(G.formula);
        const over = (policy, ref) => policy.map((p, y) => p / ref[y]);
        const end = (ref, P) => {
          const [A, B] = [over(D.chosen(ref, P), ref), over(D.rejected(ref, P), ref)];
          return [D.unique(A, B, h2), D.published(ref, A, B, D.ratioOf(h2))];
        };
        console.log(JSON.stringify(G.ref.map((ref, i) => end(ref, G.P[i]))));
    """
    found = node(
        code, {"formula": formula, "ref": world.ref.tolist(), "P": world.preference.tolist()}
    )
    alone = torch.tensor([one for one, _ in found])
    assert alone.float().mean() > 0.5
    theirs = optima.dil(world, Generator.from_function(TYPED[formula]), "rejected")
    ours = torch.tensor([law for _, law in found], dtype=torch.float64)
    torch.testing.assert_close(ours[alone], theirs[alone], rtol=0, atol=1e-8)


@needs_node
def test_groups_are_the_librarys():
    """Winners of K, the other at random, where the losses end, and drawn pairs."""
    world = World.random(range(30), responses=5)
    code = """
        const over = (policy, ref) => policy.map((p, y) => p / ref[y]);
        console.log(JSON.stringify(G.ref.map((ref, i) => {
          const winners = D.softBestOf(ref, G.reward[i], G.K);
          const losers = D.rejectedOf(ref, winners, G.K);
          const [A, B] = [over(winners, ref), over(losers, ref)];
          const weighted = [0.5, 1 / G.K, 0].map((weight) => D.weighted(ref, A, B, weight));
          return [winners, losers, D.published(ref, A, B, D.RATIO.lsif), ...weighted];
        })));
    """
    for K in (2, 4, 7):
        given = {"ref": world.ref.tolist(), "reward": world.true_reward.tolist(), "K": K}
        found = torch.tensor(node(code, given), dtype=torch.float64).unbind(1)
        groups = world.groups(K)
        pairs = groups.pairs()
        wanted = [groups.chosen, pairs.sum(1)]
        wanted.append(fit(world, make_loss("dil", generator="lsif"), pairs=pairs))
        for weight in (0.5, 1 / K, 0.0):
            loss = make_loss("dil", generator="ukl", denominator="mixture", mixture_weight=weight)
            wanted.append(fit(world, loss, pairs=pairs))
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)
    code = """
        let seed = 7;
        const random = () => { seed = (seed * 48271) % 2147483647; return seed / 2147483647; };
        const counts = G.ref.map((_) => G.ref.map(() => 0));
        for (let i = 0; i < 40000; i++) {
          const [w, l] = D.drawFromGroup(G.ref, G.reward, 4, random);
          counts[w][l] += 1 / 40000;
        }
        console.log(JSON.stringify(counts));
    """
    one = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, 2.0])
    drawn = node(code, {"ref": one.ref[0].tolist(), "reward": one.true_reward[0].tolist()})
    gaps = torch.tensor(drawn, dtype=torch.float64) - one.groups(4).pairs()[0]
    assert gaps.abs().max() < 0.01


@needs_node
def test_what_is_no_generator_is_refused_in_words():
    texts = [
        "r +",
        "exp(r",
        "sin(r)",
        "2r",
        "log(r)",
        "r",
        "",
        "alert(1)",
        "r^r^",
        "(((r",
        "1/0",
        "r;r",
        "__proto__",
        "-r^2",
    ]
    code = "console.log(JSON.stringify(G.map((t) => { try { D.generator(t); return null; } catch (e) { return e.message; } })));"  # noqa: E501
    for text, why in zip(texts, node(code, texts), strict=True):
        assert why, text
        assert not re.search(r"undefined|NaN|not a function|Cannot", why), (text, why)


@needs_node
def test_drawn_pairs_follow_the_law_of_pairs():
    world = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, 2.0])
    code = """
        let s = 1; const random = () => (s = (s * 48271) % 2147483647) / 2147483647;
        const counts = [[0,0,0],[0,0,0],[0,0,0]];
        for (let i = 0; i < 200000; i++) { const [w, l] = D.drawPair(G.ref, G.P, random); counts[w][l]++; }
        console.log(JSON.stringify(counts));
    """  # noqa: E501
    found = (
        torch.tensor(
            node(code, {"ref": world.ref[0].tolist(), "P": world.preference[0].tolist()}),
            dtype=torch.float64,
        )
        / 200_000
    )
    law = 2 * world.ref[0][:, None] * world.ref[0][None] * world.preference[0]
    assert ((found - law).abs() < 5 * (law * (1 - law) / 200_000).sqrt()).all()


def numbers(page, row):
    """KL(chosen responses || it) and KL(it || reference) of a distribution, as the table says."""
    return [
        float(text)
        for text in page.locator("#table tbody tr").nth(row).locator("td").all_inner_texts()
    ]


@pytest.mark.slow
def test_it_answers_mouse_keys_and_address(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((HERE / "index.html").as_uri())
    assert first_paint(browser, page.url) < 1000
    assert all(url.startswith("file:") for url in asked)  # no server, no network
    assert numbers(page, 1)[0] == 0
    before = numbers(page, 2)
    page.get_by_role("slider", name="reward of lovely").focus()
    for _ in range(5):
        page.keyboard.press("ArrowUp")
    page.wait_for_timeout(100)
    assert (
        page.get_by_role("slider", name="reward of lovely").get_attribute("aria-valuenow") == "2.5"
    )
    assert numbers(page, 2)[1] > before[1]  # RLHF goes further with the reward
    assert numbers(page, 1)[1] < 0.1932  # the chosen responses never beyond log 2 - 1/2
    box = page.get_by_role("slider", name="probability of awful").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"]
    page.mouse.move(x, y + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(x, y + 0.3 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_timeout(100)
    shares = [
        float(bar.get_attribute("aria-valuenow")) for bar in page.locator("#ref .handle").all()
    ]
    assert shares[4] > 0.5
    assert sum(shares) == pytest.approx(1, abs=0.005)
    page.get_by_role("button", name="100", exact=True).click()
    page.wait_for_timeout(100)
    assert page.locator("#pairs-said").inner_text().startswith("100 pairs; the last one:")
    assert len(numbers(page, 7)) == 2  # the fit stands in the table
    page.locator("#h").fill("-log(r)")
    page.wait_for_timeout(100)
    assert numbers(page, 6)[0] > 0
    page.locator("#h").fill("log(r)")
    page.wait_for_timeout(100)
    assert "not convex" in page.locator("#h-said").inner_text()
    address, told = page.url, page.locator("#table").inner_text()
    other = browser.new_page()
    other.goto(address)
    assert [
        float(bar.get_attribute("aria-valuenow")) for bar in other.locator("#ref .handle").all()
    ] == shares
    assert other.locator("#table").inner_text().split("\n")[:6] == told.split("\n")[:6]
    page.get_by_text("any labeler").click()
    page.get_by_label("lovely beats fine, per cent").fill("0")
    page.wait_for_timeout(100)
    assert page.get_by_label("fine beats lovely, per cent").input_value() == "100"
    assert "DPO: RLHF on the reward it fits" in page.locator("#table").inner_text()
    assert numbers(page, 2)[1] > 0
    for word in ("fine", "odd", "dull", "awful"):
        page.get_by_label(f"lovely beats {word}, per cent").fill("100")
    page.wait_for_timeout(100)
    assert "DPO: no optimum was found" in page.locator("#table").inner_text()
    page.locator("#weight").fill("0.25")
    page.wait_for_timeout(100)
    assert page.get_by_role("checkbox", name="UKL with weight w").is_checked()
    assert not errors


@pytest.mark.slow
def test_it_moves_within_a_frame_fits_a_phone_and_can_be_read_aloud(browser):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((HERE / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    times = page.evaluate(
        """() => Array.from({ length: 60 }, (_, i) => {
          state.reward[0] = i / 20;
          const start = performance.now();
          draw();
          return performance.now() - start;
        })"""
    )
    assert sorted(times)[6] < 16, times  # where no other job takes the processor
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs the browser extra"
    ).Axe()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        serious = [
            v["id"]
            for v in axe.run(page).response["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == []


@needs_node
def test_the_winner_of_many_is_the_librarys_and_comes_close_to_rlhf():
    """K up to 1024, which groups of so many could not be listed for."""
    from dil_tutorial.preferences import soft_best_of_k
    from dil_tutorial.rlhf import kl, rlhf_optimum

    world = World.random(range(10), responses=5)
    code = (
        "console.log(JSON.stringify(G.ref.map((ref, i) => D.softBestOf(ref, G.reward[i], G.K))));"
    )
    away = []
    for K in (16, 64, 1024):
        given = {"ref": world.ref.tolist(), "reward": world.true_reward.tolist(), "K": K}
        found = torch.tensor(node(code, given), dtype=torch.float64)
        wanted = soft_best_of_k(world.ref, world.true_reward, K)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)
        away.append(kl(found, rlhf_optimum(world.ref, world.true_reward, 1.0)).max().item())
    assert away == sorted(away, reverse=True)
    assert away[-1] < 1e-3


@pytest.mark.slow
def test_lines_are_legible_in_dark_mode(browser):
    """Each at a contrast of 3 at least to the page."""
    page = browser.new_page(color_scheme="dark")
    page.goto((HERE / "index.html").as_uri())
    contrasts = page.evaluate(
        """() => {
          const part = (x) => {
            const share = x / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
          };
          const luminance = (color) => {
            const { r, g, b } = d3.rgb(color);
            return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
          };
          const paper = luminance(getComputedStyle(document.body).backgroundColor);
          return COLORS.map(([, color]) => (luminance(ink(color)) + 0.05) / (paper + 0.05));
        }"""
    )
    page.close()
    assert min(contrasts) >= 3, contrasts
