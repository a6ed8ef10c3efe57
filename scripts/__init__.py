"""The commands. A user types those without an ending; their code is in folders by purpose."""
