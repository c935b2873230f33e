"""One loss a file. An objective builds its network, computes its loss and packs its pipeline; no accelerate here."""
