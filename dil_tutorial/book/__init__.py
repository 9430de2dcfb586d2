"""The book: a site made of the notebooks, the ledger and the figures, which asks no other server
for anything.

Read ``build`` first, then ``pages`` and ``figures``; ``architecture`` draws the layers, ``pair``
follows a pair, ``crossref`` links. It may import every package but ``cli`` and ``notebooks``; none
but ``cli`` imports it."""
