// In place of the theme's file of this name, 1.5 MB: its icons come from its font, too.
