"""Pure decisions: what is asked, what is so, and what follows. Nothing here touches the system."""
